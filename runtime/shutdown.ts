import { messageOf } from './errors.ts';
import type { Logger } from './log.ts';

/**
 * The one way a process ends in peace. Steps run once, last added first, so that what was built last (the listener)
 * closes before what it stands on (the connections). Past `graceMs` the process exits all the same.
 */
export class Shutdown {
  readonly #steps: { name: string; close: () => Promise<void> | void }[] = [];
  readonly #log: Logger;
  readonly #graceMs: number;
  readonly #abort = new AbortController();
  #done: Promise<void> | undefined;

  constructor(log: Logger, graceMs = 5_000) {
    this.#log = log;
    this.#graceMs = graceMs;
  }

  /** Aborted as soon as the shutdown begins. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  add(name: string, close: () => Promise<void> | void): void {
    this.#steps.push({ name, close });
  }

  /** Runs every step; a step that fails is logged and does not stop the others. */
  run(): Promise<void> {
    this.#done ??= this.#run();
    return this.#done;
  }

  async #run(): Promise<void> {
    this.#abort.abort();
    for (const step of this.#steps.reverse()) {
      try {
        await step.close();
      } catch (error) {
        this.#log.warn({ step: step.name, err: error }, `shutdown step failed: ${messageOf(error)}`);
      }
    }
  }

  /** Ends the process on SIGTERM and SIGINT, and when the parent that started it is gone. */
  onSignals(): void {
    const end = (why: string) => {
      this.#log.info({ why }, 'shutting down');
      setTimeout(() => process.exit(1), this.#graceMs).unref();
      void this.run().then(() => process.exit(0));
    };
    process.once('SIGTERM', () => end('SIGTERM'));
    process.once('SIGINT', () => end('SIGINT'));
    if (process.channel !== undefined) process.once('disconnect', () => end('parent gone'));
  }
}
