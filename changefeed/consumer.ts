import { randomUUID } from 'node:crypto';
import type { BatchOp, Kv } from '../kvstore/types.ts';
import { isCongerError } from '../runtime/errors.ts';
import { failpoint } from '../runtime/failpoints.ts';
import type { Logger } from '../runtime/log.ts';
import { counter, gauge } from '../runtime/metrics.ts';
import { pause } from './backoff.ts';
import { Checkpoint, PartitionLostError } from './checkpoint.ts';
import { Holding } from './holding.ts';
import { HeldKeys } from './poison.ts';
import { START } from './position.ts';
import type { Change, Cursor, GroupHandler, LogBatch, LogReader, Reading } from './types.ts';

export { ensureConsumerBuckets } from './checkpoint.ts';

/** How long whoever reads the metrics waits for the log. */
const countMs = 1_000;

const labels = ['consumer', 'partition'] as const;
/** Those of this process, asked whenever somebody reads its metrics. */
const consumers = new Set<GroupConsumer>();
const measure = () => {
  for (const consumer of consumers) consumer.measure();
};
const count = async () => {
  await Promise.all([...consumers].map((consumer) => consumer.count()));
};

const lagSeconds = gauge(
  'conger_consumer_lag_seconds',
  'age of the oldest change that was read and is not yet applied; 0 where there is none',
  labels,
  measure,
);
const lagChanges = gauge(
  'conger_consumer_lag_changes',
  'records of the log behind what was applied',
  labels,
  count,
);
const poisoned = gauge(
  'conger_consumer_poisoned',
  'changes put aside: one that could not be applied, and what follows it for its partition key',
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
   * partition, before any change, and once more at each gap: at a new epoch of the log, and where the log does not hold
   * what comes next any more. Reading first begins at the log's start, with changes that the state may hold already. What
   * is answered is committed at the end; more than one batch should hold goes through `apply`, piece by piece. May be
   * called again where it was not finished.
   */
  readonly bootstrap?: (context: ConsumerContext, apply: Apply) => Promise<readonly BatchOp[] | undefined>;
  readonly onAssigned?: (context: ConsumerContext) => void;
  readonly onRevoked?: (context: ConsumerContext) => void;
  /** Members may have come or gone, also where no partition moves; first told when this one is a member. */
  readonly onRegrouped?: () => void;
  /** The most changes that `handle` is given at once (100), unless one transaction has more in the partition. */
  readonly maxChanges?: number;
  /** How often a change is tried before it is put aside (5), and how long after the first time it is again (200 ms). */
  readonly maxTries?: number;
  readonly retryMs?: number;
  /** How many partition keys of a partition may wait for a replay (100); one more, and the partition stops. */
  readonly maxHeldKeys?: number;
  /** After how many records without a change for this consumer a checkpoint is written all the same (2,000). */
  readonly idleRecords?: number;
}

export interface Consumer {
  stop(): Promise<void>;
}

/** Joins the group; every partition is consumed by one living member. The consumers' buckets must be there. */
export async function startConsumer(options: ConsumerOptions): Promise<Consumer> {
  const consumer = new GroupConsumer(options);
  consumers.add(consumer);
  const reading: Reading = await options.reader.join(options.name, options.member, consumer);
  return {
    stop: async () => {
      await reading.stop();
      consumers.delete(consumer);
    },
  };
}

/**
 * Applies every change of the partitions that this member owns, exactly once: effects and checkpoint are committed in
 * one batch, under the checkpoint's etag, and a position that does not increase is dropped. Who owns a partition is
 * decided by the checkpoint alone; losing it costs a member the commit and nothing else.
 */
class GroupConsumer implements GroupHandler {
  readonly #options: ConsumerOptions;
  readonly #log: Logger;
  readonly #holdings = new Map<number, Holding>();

  constructor(options: ConsumerOptions) {
    this.#options = options;
    this.#log = options.log.child({ consumer: options.name });
  }

  async assigned(partition: number): Promise<Cursor | 'start'> {
    const holding = await this.#takeOver(partition);
    this.#options.onAssigned?.(holding.context);
    const { position, offset } = holding.cursor;
    return position === START ? 'start' : { position, offset };
  }

  async revoked(partition: number): Promise<void> {
    if (this.#holdings.delete(partition)) this.#log.info({ partition }, 'partition given up');
    for (const metric of [lagSeconds, lagChanges, poisoned]) metric.remove(this.#labels(partition));
    this.#options.onRevoked?.({ partition, partitions: this.#options.reader.partitions });
  }

  regrouped(): void {
    this.#options.onRegrouped?.();
  }

  batch(batch: LogBatch): Promise<void> {
    return this.#with(batch.partition, (holding) => holding.take(batch));
  }

  /** What was lost is in the state, but for what it says of the past. */
  gap(partition: number): Promise<void> {
    return this.#with(partition, (holding) => holding.bootstrap());
  }

  /** Says how far behind each partition is. */
  measure(): void {
    const now = Date.now();
    for (const [partition, { waitingSince, heldKeys }] of this.#holdings) {
      const seconds = waitingSince === undefined ? 0 : Math.max(0, now - waitingSince) / 1000;
      lagSeconds.set(this.#labels(partition), seconds);
      poisoned.set(this.#labels(partition), heldKeys.changes);
    }
  }

  /** Has the log count what is behind the checkpoints; where it does not answer soon, the last count stands. */
  async count(): Promise<void> {
    const { reader } = this.#options;
    const cursors = new Map([...this.#holdings].map(([partition, { cursor }]) => [partition, cursor]));
    const giveUp = new AbortController();
    const late = pause(countMs, giveUp.signal).then(() => undefined);
    const counts = await Promise.race([reader.behind(cursors), late]).catch(() => undefined);
    giveUp.abort();
    for (const [partition, changes] of counts ?? [])
      if (this.#holdings.has(partition)) lagChanges.set(this.#labels(partition), changes);
  }

  /**
   * Lost, and still told of it: the group says that it is ours, so the other one is gone or about to be told. In doubt it
   * is taken over anew, too: what was committed, and what was put aside, is then read.
   */
  async #with(partition: number, work: (holding: Holding) => Promise<void>): Promise<void> {
    try {
      const holding = this.#holdings.get(partition);
      const usable = holding !== undefined && !holding.checkpoint.inDoubt;
      await work(usable ? holding : await this.#takeOver(partition));
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
    const heldKeys = await HeldKeys.read(kv, name, partition);
    const holding = new Holding(checkpoint, heldKeys, this.#options, this.#log, {
      applied: (partition, changes) => applied.inc(this.#labels(partition), changes),
      failed: (partition) => failures.inc(this.#labels(partition)),
    });
    if (!checkpoint.value.bootstrapped || (await this.#dropped(holding.cursor, partition)))
      await holding.bootstrap();
    this.#holdings.set(partition, holding);
    this.#log.info({ partition, position: holding.cursor.position }, 'partition taken over');
    return holding;
  }

  /** Whether the log may have dropped records before the first one was taken: who begins at its start is not told. */
  async #dropped({ position }: Cursor, partition: number): Promise<boolean> {
    if (position !== START) return false;
    try {
      await this.#options.reader.locate(partition, START);
      return false;
    } catch (error) {
      if (isCongerError(error, 'PositionGone')) return true;
      throw error;
    }
  }

  #labels(partition: number): { consumer: string; partition: string } {
    return { consumer: this.#options.name, partition: String(partition) };
  }
}
