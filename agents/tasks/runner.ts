import { join } from 'node:path';
import { z } from 'zod';
import { messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import { type Task, taskSchema } from '../contract/wire.ts';
import { Backoff, sleep } from '../liveness/backoff.ts';
import type { Instances } from '../liveness/instances.ts';
import { agentMetrics } from '../metrics.ts';
import { SavedFile } from '../state/file.ts';
import { type Handler, handlers } from './handlers.ts';

const outcomeSchema = z.union([
  z.object({ status: z.literal('complete'), result: z.unknown() }),
  z.object({ status: z.literal('failure'), error: z.object({ message: z.string() }) }),
]);
type Outcome = z.infer<typeof outcomeSchema>;

/** `outcome` is null while the task runs. */
const recordSchema = z.object({
  id: z.string(),
  requestId: z.string(),
  outcome: outcomeSchema.nullable(),
  posted: z.boolean(),
});
type TaskRecord = z.infer<typeof recordSchema>;
const fileSchema = z.object({ v: z.literal(1), tasks: z.array(recordSchema) });

export interface TaskRunnerOptions {
  readonly home: string;
  readonly cnapi: Instances;
  readonly log: Logger;
  readonly signal: AbortSignal;
  /** How many finished tasks are remembered. */
  readonly keep: number;
  readonly handlers?: ReadonlyMap<string, Handler>;
}

/**
 * Runs tasks and posts their outcomes. A task is written down before it starts and with its outcome when it ends, so that one that
 * CNAPI sends again, even to a restarted agent, is answered from what is written and not run twice.
 */
export class TaskRunner {
  readonly #options: TaskRunnerOptions;
  readonly #handlers: ReadonlyMap<string, Handler>;
  readonly #file: SavedFile;
  readonly #records = new Map<string, TaskRecord>();
  readonly #running = new Set<string>();
  readonly #posting = new Set<string>();
  readonly #works = new Set<Promise<void>>();

  constructor(options: TaskRunnerOptions) {
    this.#options = options;
    this.#handlers = options.handlers ?? handlers;
    this.#file = new SavedFile(join(options.home, 'tasks.json'), () =>
      JSON.stringify({ v: 1, tasks: [...this.#records.values()] }),
    );
  }

  /** Reads what is written and posts outcomes that CNAPI has not accepted yet. */
  async load(): Promise<void> {
    const text = await this.#file.read();
    if (text === null) return;
    try {
      for (const record of fileSchema.parse(JSON.parse(text)).tasks) this.#records.set(record.id, record);
    } catch (error) {
      this.#options.log.error(`the saved tasks cannot be read: ${messageOf(error)}`);
    }
    for (const record of this.#records.values()) {
      if (record.outcome !== null && !record.posted)
        this.#start(this.#post(record.id, record.requestId, record.outcome));
    }
  }

  /** Takes a task as it came; one that is known already is answered again instead of run again. */
  take(raw: unknown): void {
    const parsed = taskSchema.safeParse(raw);
    if (parsed.success) this.#start(this.#run(parsed.data));
    else this.#options.log.error({ task: raw }, `a task is not valid: ${parsed.error.issues[0]?.message}`);
  }

  /** Resolves once no task is under way. */
  async idle(): Promise<void> {
    while (this.#works.size > 0) await Promise.all(this.#works);
  }

  #start(work: Promise<void>): void {
    const guarded = work
      .catch((error: unknown) => this.#options.log.error({ err: error }, `task: ${messageOf(error)}`))
      .finally(() => this.#works.delete(guarded));
    this.#works.add(guarded);
  }

  async #run(task: Task): Promise<void> {
    if (this.#running.has(task.id)) return;
    const known = this.#records.get(task.id);
    if (known?.outcome) return this.#post(task.id, known.requestId, known.outcome);
    this.#running.add(task.id);
    try {
      const outcome = await this.#outcome(task, known !== undefined);
      // A task that the agent's end cut short is decided by the next agent.
      if (this.#options.signal.aborted) return;
      this.#records.set(task.id, { id: task.id, requestId: task.req_id, outcome, posted: false });
      await this.#file.save();
      agentMetrics.tasks.inc({ status: outcome.status });
      await this.#post(task.id, task.req_id, outcome);
    } finally {
      this.#running.delete(task.id);
    }
  }

  async #outcome(task: Task, interrupted: boolean): Promise<Outcome> {
    const failure = (message: string): Outcome => ({ status: 'failure', error: { message } });
    const handler = this.#handlers.get(task.task);
    if (handler === undefined) return failure(`this node does not support the task ${task.task}`);
    if (interrupted && !handler.repeatable) return failure('the agent was restarted while the task ran');
    this.#records.set(task.id, { id: task.id, requestId: task.req_id, outcome: null, posted: false });
    await this.#file.save();
    try {
      return { status: 'complete', result: await handler.run(task, this.#options.signal) };
    } catch (error) {
      return failure(messageOf(error));
    }
  }

  async #post(id: string, requestId: string, outcome: Outcome): Promise<void> {
    if (this.#posting.has(id)) return;
    this.#posting.add(id);
    const { cnapi, log, signal } = this.#options;
    const backoff = new Backoff();
    try {
      while (!signal.aborted) {
        try {
          const answer = await cnapi.call('POST', `/tasks/${id}/result`, outcome, requestId, signal);
          if (answer.status >= 500) throw new Error(`${answer.status}: ${answer.text.slice(0, 500)}`);
          if (answer.status >= 300)
            log.warn({ task: id, status: answer.status }, 'CNAPI refused a task’s result');
          break;
        } catch (error) {
          if (!signal.aborted) log.warn({ task: id }, `cannot post a task’s result: ${messageOf(error)}`);
          await sleep(backoff.take(), signal);
        }
      }
      if (signal.aborted) return;
      this.#records.set(id, { id, requestId, outcome, posted: true });
      this.#forgetOldest();
      await this.#file.save();
    } finally {
      this.#posting.delete(id);
    }
  }

  #forgetOldest(): void {
    for (const [id, { posted }] of this.#records) {
      if (this.#records.size <= this.#options.keep) return;
      if (posted) this.#records.delete(id);
    }
  }
}
