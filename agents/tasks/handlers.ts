import type { Task } from '../contract/wire.ts';
import { sleep } from '../liveness/backoff.ts';

export interface Handler {
  /** Whether a task that was interrupted may be run again. */
  readonly repeatable: boolean;
  /** @returns the task's result. @throws Error if it fails. */
  run(task: Task, signal: AbortSignal): Promise<unknown>;
}

/** Does nothing: `sleep` (seconds) makes it take time, `error` makes it fail. */
const nop: Handler = {
  repeatable: true,
  async run({ params }, signal) {
    if (typeof params.sleep === 'number') await sleep(params.sleep * 1000, signal);
    signal.throwIfAborted();
    if (params.error !== undefined && params.error !== null && params.error !== false) {
      throw new Error(String(params.error));
    }
    return {};
  },
};

/** The tasks that an agent knows, by name. Machines are not made by tasks: they follow the desired state. */
export const handlers: ReadonlyMap<string, Handler> = new Map([['nop', nop]]);
