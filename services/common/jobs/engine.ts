import { Backoff } from '../../../changefeed/backoff.ts';
import type { Broadcast } from '../../../changefeed/broadcast.ts';
import { partitionOf } from '../../../changefeed/change.ts';
import { messageOf } from '../../../runtime/errors.ts';
import type { Logger } from '../../../runtime/log.ts';
import { counter, gauge } from '../../../runtime/metrics.ts';
import { JobRunner } from './runner.ts';
import type { JobDefinition } from './steps.ts';
import { JobLostError, type JobStore, type StoredJob } from './store.ts';

const endedTotal = counter('conger_jobs_ended_total', 'jobs that this instance ended', ['name', 'execution']);
const lostTotal = counter('conger_jobs_lost_total', 'jobs given up because another instance runs them');
const servedNow = gauge('conger_jobs_resources', 'resources whose jobs this instance runs now');

export interface JobEngineOptions {
  readonly store: JobStore;
  readonly definitions: readonly JobDefinition[];
  readonly broadcast: Pick<Broadcast, 'waitFor'>;
  readonly log: Logger;
  /** Unique to this life of the process. */
  readonly member: string;
  readonly partitions: number;
  /** The longest pause between two tries of what is not reachable, in milliseconds. */
  readonly mostPauseMs?: number;
}

/** The jobs of one resource, being run one after the other. */
interface Mailbox {
  readonly signal: AbortSignal;
  /** Something may have been added since the jobs were last read. */
  again: boolean;
  readonly done: Promise<void>;
}

/**
 * Runs the jobs of the resources whose partitions this instance owns: of one resource one at a time, in the order in
 * which they were added. It is told only that there is something to look at; what there is, it reads from the KV
 * tier. Owning a partition is advice: two instances that both believe in it are kept apart by the job's etag.
 */
export class JobEngine {
  readonly #options: JobEngineOptions;
  readonly #definitions: ReadonlyMap<string, JobDefinition>;
  readonly #log: Logger;
  readonly #owned = new Map<number, AbortController>();
  readonly #mailboxes = new Map<string, Mailbox>();
  #runs = 0;

  constructor(options: JobEngineOptions) {
    this.#options = options;
    this.#definitions = new Map(options.definitions.map((d) => [d.name, d]));
    this.#log = options.log.child({ part: 'jobs' });
  }

  /** Whether the name is of one of this engine's runners. */
  isOwn(runner: unknown): boolean {
    return typeof runner === 'string' && runner.startsWith(`${this.#options.member}/`);
  }

  /** The partition is this instance's: resumes every job in it that has not ended. */
  assigned(partition: number): void {
    if (this.#owned.has(partition)) return;
    const owning = new AbortController();
    this.#owned.set(partition, owning);
    void this.#resume(partition, owning.signal);
  }

  /** The log has lost changes: jobs that nobody was woken for are found in the store. */
  missed(partition: number): void {
    const owning = this.#owned.get(partition);
    if (owning !== undefined) void this.#resume(partition, owning.signal);
  }

  /** The partition is another's: nothing more is begun for it. */
  revoked(partition: number): void {
    this.#owned.get(partition)?.abort(new Error(`partition ${partition} was given up`));
    this.#owned.delete(partition);
  }

  /** The resource may have a job to run. Of no effect where its partition is another instance's. */
  wake(resource: string): void {
    const owning = this.#owned.get(partitionOf(resource, this.#options.partitions));
    if (owning === undefined) return;
    const present = this.#mailboxes.get(resource);
    if (present !== undefined && present.signal === owning.signal) {
      present.again = true;
      return;
    }
    const { signal } = owning;
    const mailbox: Mailbox = {
      signal,
      again: true,
      done: Promise.resolve(present?.done).then(() => serve()),
    };
    const serve = async () => {
      while (mailbox.again && !signal.aborted) {
        mailbox.again = false;
        await this.#serve(resource, signal);
      }
      if (this.#mailboxes.get(resource) === mailbox) this.#mailboxes.delete(resource);
      servedNow.set(this.#mailboxes.size);
    };
    this.#mailboxes.set(resource, mailbox);
    servedNow.set(this.#mailboxes.size);
  }

  /** Gives every partition up; resolves when nothing runs any more, or after `graceMs`. */
  async stop(graceMs = 2_000): Promise<void> {
    for (const partition of [...this.#owned.keys()]) this.revoked(partition);
    const over = new Promise<void>((resolve) => setTimeout(resolve, graceMs).unref());
    await Promise.race([Promise.all([...this.#mailboxes.values()].map((box) => box.done)), over]);
  }

  async #resume(partition: number, signal: AbortSignal): Promise<void> {
    const { store, partitions } = this.#options;
    const waiting = await this.#persistently(signal, () => store.unfinished());
    if (waiting === undefined) return;
    const resources = new Set(waiting.map((job) => store.resourceOf(job.record)));
    for (const resource of resources) {
      if (partitionOf(resource, partitions) === partition) this.wake(resource);
    }
  }

  /** Runs the resource's jobs until there are none, or until another instance turns out to run them. */
  async #serve(resource: string, signal: AbortSignal): Promise<void> {
    let more: boolean | undefined = true;
    while (more) more = await this.#persistently(signal, () => this.#next(resource, signal));
  }

  /** Runs the resource's next job; answers whether to look for another. */
  async #next(resource: string, signal: AbortSignal): Promise<boolean> {
    const [job] = await this.#options.store.unfinished(resource);
    if (job === undefined) return false;
    const definition = this.#definitions.get(job.record.name);
    if (definition === undefined) {
      this.#log.warn({ job: job.record.uuid }, `job left to others: ${job.record.name} is not known here`);
      return false;
    }
    return this.#run(definition, job, signal);
  }

  async #run(definition: JobDefinition, job: StoredJob, signal: AbortSignal): Promise<boolean> {
    const { member } = this.#options;
    this.#runs++;
    try {
      const runner = new JobRunner(this.#options, definition, job, signal);
      const last = await runner.run(`${member}/${this.#runs}`);
      endedTotal.inc({ name: definition.name, execution: last.execution });
      this.#log.info({ job: last.uuid, task: last.name, execution: last.execution }, `job ${last.execution}`);
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      if (error instanceof JobLostError) {
        lostTotal.inc();
        this.#log.info({ job: job.record.uuid }, error.message);
        return false;
      }
      throw error;
    }
  }

  /** Tries until it succeeds or the signal is aborted, and then answers undefined. */
  async #persistently<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T | undefined> {
    const backoff = new Backoff(20, this.#options.mostPauseMs ?? 5_000);
    while (!signal.aborted) {
      try {
        return await work();
      } catch (error) {
        this.#log.warn({ err: error }, `jobs not run, will be tried again: ${messageOf(error)}`);
        await backoff.pause(signal);
      }
    }
    return undefined;
  }
}
