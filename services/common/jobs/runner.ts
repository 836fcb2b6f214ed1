import { Backoff } from '../../../changefeed/backoff.ts';
import { type Broadcast, WaitTimeoutError } from '../../../changefeed/broadcast.ts';
import { CongerError, isCongerError, messageOf } from '../../../runtime/errors.ts';
import type { Logger } from '../../../runtime/log.ts';
import { newTrace, withTrace } from '../../../runtime/trace.ts';
import { derivedUuid } from '../ids.ts';
import { type ChainResult, hasEnded, type JobFailure, type JobRecord } from './record.ts';
import type { JobDefinition, Step, StepContext, StepOutcome } from './steps.ts';
import { StepTimeoutError } from './steps.ts';
import { JobLostError, type JobStore, type StoredJob } from './store.ts';

export interface RunnerOptions {
  readonly store: JobStore;
  readonly broadcast: Pick<Broadcast, 'waitFor'>;
  readonly log: Logger;
  /** The longest pause between two tries, in milliseconds. */
  readonly mostPauseMs?: number;
}

/** How often a step whose writes were overtaken is done again before that is its failure. */
const staleTries = 30;
const stalePauseMs = 200;
const stale = ['EtagConflictError', 'ObjectNotFoundError'] as const;

/**
 * Runs one job from where its record says it is to its end. A step's start is written before it is done, and its end
 * together with its writes; each write is under the etag of the one before, so a runner that lost the job learns it
 * at its next write and has changed nothing since.
 */
export class JobRunner {
  readonly #options: RunnerOptions;
  readonly #definition: JobDefinition;
  readonly #signal: AbortSignal;
  readonly #log: Logger;
  #job: StoredJob;

  constructor(options: RunnerOptions, definition: JobDefinition, job: StoredJob, signal: AbortSignal) {
    this.#options = options;
    this.#definition = definition;
    this.#signal = signal;
    this.#job = job;
    this.#log = options.log.child({ job: job.record.uuid, task: definition.name });
  }

  /**
   * Resolves with the job's last state once it has ended.
   * @throws JobLostError when another runs it; the signal's reason when aborted
   */
  run(runner: string): Promise<JobRecord> {
    const { request_id, traceparent } = this.#job.record;
    return withTrace(newTrace(request_id, traceparent), async () => {
      await this.#claim(runner);
      while (!hasEnded(this.#job.record)) {
        this.#signal.throwIfAborted();
        if (this.#job.record.phase === 'do') await this.#do();
        else await this.#undo();
      }
      return this.#job.record;
    });
  }

  async #claim(runner: string): Promise<void> {
    const { record } = this.#job;
    const next: JobRecord = { ...record, runner, execution: 'running' };
    await this.#persistently(() =>
      this.#write(record.step_started_at === null ? this.#starting(next, 0) : next),
    );
  }

  async #do(): Promise<void> {
    const { record } = this.#job;
    const step = this.#step(record.step);
    try {
      await this.#persistently(async () => {
        const outcome = await step.do(this.#context(step));
        await this.#write(this.#afterDoing(step, outcome), outcome?.ops);
      }, record.deadline);
    } catch (error) {
      this.#rethrowLost(error);
      this.#log.warn({ err: error, step: step.name }, `step failed: ${messageOf(error)}`);
      const failed = this.#result(step.name, '', failureOf(error));
      const next: JobRecord = {
        ...record,
        phase: 'undo',
        step: this.#lastUndo(record.step),
        deadline: null,
        step_started_at: now(),
        chain_results: [...record.chain_results, failed],
      };
      await this.#persistently(() => this.#write(next.step < 0 ? ended(next, 'failed') : next));
    }
  }

  async #undo(): Promise<void> {
    const step = this.#step(this.#job.record.step);
    try {
      await this.#persistently(async () => {
        const outcome = await step.undo?.(this.#context(step));
        await this.#write(this.#afterUndoing(step, outcome), outcome?.ops);
      });
    } catch (error) {
      this.#rethrowLost(error);
      this.#log.error({ err: error, step: step.name }, `step not undone: ${messageOf(error)}`);
      await this.#persistently(() => this.#write(this.#afterUndoing(step, undefined, failureOf(error))));
    }
  }

  #afterDoing(step: Step, outcome: StepOutcome | undefined): JobRecord {
    const { record } = this.#job;
    const next: JobRecord = {
      ...record,
      data: { ...record.data, ...outcome?.data },
      chain_results: [...record.chain_results, this.#result(step.name, outcome?.result ?? 'OK', '')],
    };
    const following = record.step + 1;
    return following === this.#definition.steps.length
      ? ended(next, 'succeeded')
      : this.#starting(next, following);
  }

  #afterUndoing(step: Step, outcome: StepOutcome | undefined, error: JobFailure | '' = ''): JobRecord {
    const { record } = this.#job;
    const result = this.#result(`${step.name}.undo`, outcome?.result ?? (error === '' ? 'OK' : ''), error);
    const next: JobRecord = {
      ...record,
      step: this.#lastUndo(record.step - 1),
      step_started_at: now(),
      data: { ...record.data, ...outcome?.data },
      onerror_results: [...record.onerror_results, result],
    };
    return next.step < 0 ? ended(next, 'failed') : next;
  }

  /** The nearest step at or before `index` that can be undone; -1 where there is none. */
  #lastUndo(index: number): number {
    let at = index;
    while (at >= 0 && this.#step(at).undo === undefined) at--;
    return at;
  }

  #starting(record: JobRecord, index: number): JobRecord {
    const { timeoutMs } = this.#step(index);
    const deadline = timeoutMs === undefined ? null : Date.now() + timeoutMs;
    return { ...record, step: index, step_started_at: now(), deadline };
  }

  #result(name: string, result: string, error: JobFailure | ''): ChainResult {
    const started = this.#job.record.step_started_at ?? now();
    return { name, result, error, started_at: started, finished_at: now() };
  }

  #step(index: number): Step {
    const step = this.#definition.steps[index];
    if (step === undefined) throw new Error(`${this.#definition.name} has no step ${index}`);
    return step;
  }

  async #write(next: JobRecord, ops?: StepOutcome['ops']): Promise<void> {
    this.#signal.throwIfAborted();
    this.#job = await this.#options.store.write(this.#job, next, ops);
  }

  /** Tries again what passes by itself: parts that are not reachable, and writes that others overtook. */
  async #persistently(work: () => Promise<void>, deadline: number | null = null): Promise<void> {
    const away = new Backoff(20, this.#options.mostPauseMs ?? 5_000);
    const behind = new Backoff(2, stalePauseMs);
    for (let overtaken = 0; ; ) {
      try {
        await work();
        return;
      } catch (error) {
        this.#rethrowLost(error);
        const isBehind = isCongerError(error, ...stale) && overtaken++ < staleTries;
        const isAway = passes(error) && (deadline === null || Date.now() < deadline);
        if (!isBehind && !isAway) throw error;
        this.#log.debug({ err: error }, `trying again: ${messageOf(error)}`);
        await (isBehind ? behind : away).pause(this.#signal);
      }
    }
  }

  #rethrowLost(error: unknown): void {
    this.#signal.throwIfAborted();
    if (error instanceof JobLostError) throw error;
  }

  #context(step: Step): StepContext {
    const { record } = this.#job;
    const { broadcast, log } = this.#options;
    const signal = this.#signal;
    return {
      job: record,
      log,
      signal,
      key: (purpose) => derivedUuid(record.uuid, step.name, purpose),
      waitFor: async (bucket, key, check) => {
        // Even a step that is late looks once: what it waits for may have come about while nobody ran it.
        const present = await check();
        if (present !== undefined) return present;
        const timeoutMs = record.deadline === null ? longestWaitMs : record.deadline - Date.now();
        if (timeoutMs <= 0) throw new StepTimeoutError(step.name, `${bucket}/${key}`);
        try {
          return await broadcast.waitFor({ bucket, key, timeoutMs, signal }, check);
        } catch (error) {
          if (error instanceof WaitTimeoutError) throw new StepTimeoutError(step.name, `${bucket}/${key}`);
          throw error;
        }
      },
    };
  }
}

/** setTimeout's longest. */
const longestWaitMs = 2 ** 31 - 1;

function ended(record: JobRecord, execution: 'succeeded' | 'failed'): JobRecord {
  return { ...record, execution, ended_at: now(), deadline: null };
}

/** Whether the error is of a kind that is gone after a while. */
function passes(error: unknown): boolean {
  return error instanceof CongerError && error.status === 503;
}

function failureOf(error: unknown): JobFailure {
  const code =
    error instanceof CongerError || error instanceof StepTimeoutError ? error.code : 'InternalError';
  const details = error instanceof CongerError ? error.errors : undefined;
  const fields = details?.map((e) => `${e.field}: ${e.message}`).join(', ');
  return { code, message: fields === undefined ? messageOf(error) : `${messageOf(error)} (${fields})` };
}

function now(): string {
  return new Date().toISOString();
}
