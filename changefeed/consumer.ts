import { randomUUID } from 'node:crypto';
import type { BatchOp, Kv } from '../kvstore/types.ts';
import { isCongerError } from '../runtime/errors.ts';
import { failpoint } from '../runtime/failpoints.ts';
import type { Logger } from '../runtime/log.ts';
import { counter, gauge } from '../runtime/metrics.ts';
import { newTrace, withTrace } from '../runtime/trace.ts';
import { Backoff } from './backoff.ts';
import { parseChange } from './change.ts';
import { Checkpoint, PartitionLostError } from './checkpoint.ts';
import { epochOf } from './position.ts';
import type { Change, Cursor, GroupHandler, LogBatch, LogReader, Reading } from './types.ts';

export { ensureCheckpointBucket } from './checkpoint.ts';

const labels = ['consumer', 'partition'] as const;
const lagSeconds = gauge(
  'conger_consumer_lag_seconds',
  'age of the last applied change when it was applied',
  labels,
);
const lagChanges = gauge(
  'conger_consumer_lag_changes',
  'records fetched from the log and not yet applied',
  labels,
);
const applied = counter('conger_consumer_applied_total', 'changes applied', labels);
const failures = counter('conger_consumer_failures_total', 'failed tries to apply changes', labels);

export interface ConsumerContext {
  readonly partition: number;
  /** How many there are; with partitionOf it tells which partition keys are this one's. */
  readonly partitions: number;
}

/**
 * Commits the writes that `compute` answers, in one batch, for as long as this member owns the partition; `compute` is
 * called again where what it read was overtaken.
 */
export type Apply = (compute: () => Promise<readonly BatchOp[]>) => Promise<void>;

export interface ConsumerOptions {
  /** Names the group and its checkpoints. */
  readonly name: string;
  /** Unique to this process's life. */
  readonly member: string;
  readonly reader: LogReader;
  readonly kv: Kv;
  readonly log: Logger;
  /** Changes of other buckets are passed over. */
  readonly buckets: readonly string[];
  /**
   * The effect of some changes of one partition, in order, as writes to be committed with the checkpoint. It should
   * read the state, give the etags of what it read, and may be called again with the same changes: before the commit,
   * and never after it.
   */
  readonly handle: (changes: readonly Change[], context: ConsumerContext) => Promise<readonly BatchOp[]>;
  /**
   * Derives everything of a partition from the state there is: called once, by the first consumer that ever gets the
   * partition, before any change, and once more at each new epoch of the log, which follows a gap. Reading then begins
   * at the log's start, with changes that the state may hold already. What is answered is committed at the end; more
   * than one batch should hold goes through `apply`, piece by piece. May be called again where it was not finished.
   */
  readonly bootstrap?: (context: ConsumerContext, apply: Apply) => Promise<readonly BatchOp[] | undefined>;
  readonly onAssigned?: (context: ConsumerContext) => void;
  readonly onRevoked?: (context: ConsumerContext) => void;
  /** The most changes that `handle` is given at once (100). */
  readonly maxChanges?: number;
  /** After how many records without a change for this consumer a checkpoint is written all the same (2,000). */
  readonly idleRecords?: number;
}

export interface Consumer {
  stop(): Promise<void>;
}

/** Joins the group; every partition is consumed by one living member. The checkpoint bucket must be there. */
export async function startConsumer(options: ConsumerOptions): Promise<Consumer> {
  const consumer = new GroupConsumer(options);
  const reading: Reading = await options.reader.join(options.name, options.member, consumer);
  return { stop: () => reading.stop() };
}

/** The errors of a batch whose reads were overtaken: reading again gives another batch. */
const stale = ['EtagConflictError', 'ObjectNotFoundError', 'UniqueAttributeError'] as const;
const staleTries = 6;

interface Holding {
  readonly checkpoint: Checkpoint;
  /** Behind everything applied or passed over; the checkpoint may lag behind it by passed-over records. */
  cursor: Cursor;
  passedOver: number;
}

/**
 * Applies every change of the partitions that this member owns, exactly once: effects and checkpoint are committed in
 * one batch, under the checkpoint's etag, and a position that does not increase is dropped. Who owns a partition is
 * decided by the checkpoint alone; losing it costs a member the commit and nothing else.
 */
class GroupConsumer implements GroupHandler {
  readonly #options: ConsumerOptions;
  readonly #buckets: ReadonlySet<string>;
  readonly #log: Logger;
  readonly #holdings = new Map<number, Holding>();

  constructor(options: ConsumerOptions) {
    this.#options = options;
    this.#buckets = new Set(options.buckets);
    this.#log = options.log.child({ consumer: options.name });
  }

  async assigned(partition: number): Promise<Cursor | 'start'> {
    const holding = await this.#takeOver(partition);
    this.#options.onAssigned?.(this.#context(partition));
    const { position, offset } = holding.cursor;
    return position === '' ? 'start' : { position, offset };
  }

  async revoked(partition: number): Promise<void> {
    if (this.#holdings.delete(partition)) this.#log.info({ partition }, 'partition given up');
    lagSeconds.remove(this.#labels(partition));
    lagChanges.remove(this.#labels(partition));
    this.#options.onRevoked?.(this.#context(partition));
  }

  async batch(batch: LogBatch): Promise<void> {
    const { partition } = batch;
    try {
      // Lost, and still offered: the group says that it is ours, so the other one is gone or about to be told.
      const holding = this.#holdings.get(partition) ?? (await this.#takeOver(partition));
      await this.#apply(holding, batch);
    } catch (error) {
      if (error instanceof PartitionLostError) {
        this.#holdings.delete(partition);
        this.#log.info({ partition }, error.message);
      } else {
        // The reader logs what it is thrown, and offers the batch again.
        failures.inc(this.#labels(partition));
      }
      throw error;
    }
  }

  async #takeOver(partition: number): Promise<Holding> {
    const { kv, name, member } = this.#options;
    const owner = `${member}/${randomUUID()}`;
    await failpoint('consumer.takeover.before');
    const checkpoint = await Checkpoint.takeOver(kv, name, partition, owner);
    await failpoint('consumer.takeover.after');
    if (!checkpoint.value.bootstrapped) await this.#bootstrap(checkpoint);
    const { position, offset } = checkpoint.value;
    const holding: Holding = { checkpoint, cursor: { position, offset }, passedOver: 0 };
    this.#holdings.set(partition, holding);
    this.#log.info({ partition, position }, 'partition taken over');
    return holding;
  }

  async #bootstrap(checkpoint: Checkpoint): Promise<void> {
    const { partition } = checkpoint.value;
    await failpoint('consumer.bootstrap.before');
    const apply: Apply = (compute) =>
      this.#fresh(async () => {
        const ops = await compute();
        if (ops.length > 0) await checkpoint.fence(ops);
      });
    const ops = await this.#options.bootstrap?.(this.#context(partition), apply);
    await checkpoint.bootstrapped(ops ?? []);
    await failpoint('consumer.bootstrap.after');
    if (this.#options.bootstrap !== undefined) this.#log.info({ partition }, 'derived from the state');
  }

  async #apply(holding: Holding, batch: LogBatch): Promise<void> {
    const { maxChanges = 100, idleRecords = 2_000 } = this.#options;
    const fresh = batch.records.filter((record) => record.position > holding.cursor.position);
    const last = fresh.at(-1);
    if (last === undefined) return;
    // The state is read behind the gap, so nothing of the new epoch is missing from it and the changes together.
    const opened = epochOf(last.position) > epochOf(holding.cursor.position);
    if (opened) await this.#bootstrap(holding.checkpoint);
    const changes = fresh.map((record) => parseChange(record)).filter((c) => this.#buckets.has(c.bucket));
    const lag = lagChanges.labels(this.#labels(batch.partition));
    lag.set(fresh.length);
    for (let done = 0; done < changes.length; done += maxChanges) {
      const some = changes.slice(done, done + maxChanges);
      const end = some.at(-1);
      if (end === undefined) break;
      // In mid-batch the log's offset is not known: reading on from an earlier one repeats what the position drops.
      const cursor =
        done + maxChanges < changes.length
          ? { position: end.position, offset: holding.cursor.offset }
          : batch.cursor;
      await this.#handle(holding, some, end, cursor);
      lag.set(fresh.length - done - some.length);
    }
    lag.set(0);
    if (changes.length > 0) return;
    holding.passedOver += fresh.length;
    holding.cursor = batch.cursor;
    if (opened || holding.passedOver >= idleRecords) {
      await holding.checkpoint.advance([], batch.cursor);
      holding.passedOver = 0;
    }
  }

  /** Applies some changes as part of the last one's request. */
  async #handle(holding: Holding, changes: readonly Change[], last: Change, cursor: Cursor): Promise<void> {
    const trace = newTrace(last.requestId ?? undefined, last.traceparent ?? undefined);
    await this.#fresh(() =>
      withTrace(trace, async () => {
        await failpoint('consumer.handle.before');
        const ops = await this.#options.handle(changes, this.#context(last.partition));
        await holding.checkpoint.advance(ops, cursor);
        await failpoint('consumer.handle.after');
      }),
    );
    holding.cursor = cursor;
    holding.passedOver = 0;
    applied.inc(this.#labels(last.partition), changes.length);
    lagSeconds.set(this.#labels(last.partition), Math.max(0, Date.now() - last.time) / 1000);
  }

  /** Reads and writes, again where what was read was overtaken. */
  async #fresh(work: () => Promise<void>): Promise<void> {
    const backoff = new Backoff(5, 200);
    for (let tries = 1; ; tries++) {
      try {
        return await work();
      } catch (error) {
        if (!isCongerError(error, ...stale) || tries >= staleTries) throw error;
        await backoff.pause();
      }
    }
  }

  #context(partition: number): ConsumerContext {
    return { partition, partitions: this.#options.reader.partitions };
  }

  #labels(partition: number): { consumer: string; partition: string } {
    return { consumer: this.#options.name, partition: String(partition) };
  }
}
