import type { BatchOp, Kv } from '../kvstore/types.ts';
import { isCongerError, messageOf } from '../runtime/errors.ts';
import { failpoint } from '../runtime/failpoints.ts';
import type { Logger } from '../runtime/log.ts';
import { newTrace, withTrace } from '../runtime/trace.ts';
import { Backoff } from './backoff.ts';
import { parseChange, UnreadableChangeError } from './change.ts';
import { type Checkpoint, PartitionLostError } from './checkpoint.ts';
import type { Apply, ConsumerContext, ConsumerOptions } from './consumer.ts';
import { type Aside, type HeldKeys, isAway, poisonBucket, requestBucket } from './poison.ts';
import { epochOf, START, transactionOf } from './position.ts';
import { Replay, requestIn } from './replay.ts';
import type { Change, Cursor, LogBatch, LogRecord } from './types.ts';

/** The errors of a batch whose reads were overtaken: reading again gives another batch. */
const stale = ['EtagConflictError', 'ObjectNotFoundError', 'UniqueAttributeError'] as const;
const staleTries = 6;

/** Bodies of this many bytes are applied at once at most, unless those of one transaction are larger. */
const maxBytes = 4 * 1024 * 1024;

const defaults = { maxChanges: 100, idleRecords: 2_000, maxTries: 5, retryMs: 200, maxHeldKeys: 100 };

/** A record that concerns the consumer: a change, or why it cannot be read. */
export interface Item {
  readonly record: LogRecord;
  readonly change: Change | undefined;
  readonly unreadable?: string;
}

/** What a holding tells about its work. */
export interface HoldingEvents {
  applied(partition: number, changes: number): void;
  failed(partition: number): void;
}

/**
 * One partition as one assignment consumes it. Each change is applied or put aside, in order for each partition key,
 * in one batch with the place behind it; the checkpoint's etag decides whether that happens at all. What a transaction
 * has in the batch that was read is in one part, so that no place is within it.
 *
 * A change that cannot be applied is found by trying ever smaller parts of what failed, and only then also parts of a
 * transaction. It is put aside, and with it all
 * later changes of its partition key, so that none overtakes it. What says nothing about the change (the store is away)
 * is not a try.
 */
export class Holding {
  readonly checkpoint: Checkpoint;
  readonly heldKeys: HeldKeys;
  readonly context: ConsumerContext;
  readonly options: ConsumerOptions & typeof defaults;
  readonly kv: Kv;
  readonly log: Logger;
  readonly #events: HoldingEvents;
  readonly #buckets: ReadonlySet<string>;
  /** Behind everything applied or passed over; the checkpoint may lag behind it by passed-over records. */
  #cursor: Cursor;
  #passedOver = 0;
  #waitingSince: number | undefined;

  constructor(
    checkpoint: Checkpoint,
    heldKeys: HeldKeys,
    options: ConsumerOptions,
    log: Logger,
    events: HoldingEvents,
  ) {
    this.checkpoint = checkpoint;
    this.heldKeys = heldKeys;
    this.options = { ...defaults, ...options };
    this.context = { partition: checkpoint.value.partition, partitions: options.reader.partitions };
    this.kv = options.kv;
    this.log = log;
    this.#events = events;
    this.#buckets = new Set([...options.buckets, requestBucket]);
    const { position, offset } = checkpoint.value;
    this.#cursor = { position, offset };
  }

  get cursor(): Cursor {
    return this.#cursor;
  }

  /** When the oldest change was committed that was read and is not applied; undefined where there is none. */
  get waitingSince(): number | undefined {
    return this.#waitingSince;
  }

  /** Derives everything of the partition from the state. */
  async bootstrap(): Promise<void> {
    const { partition } = this.context;
    const { bootstrap } = this.options;
    const apply: Apply = (compute) =>
      this.fresh(async () => {
        const ops = await compute();
        if (ops.length > 0) await this.checkpoint.fence(ops);
      });
    await failpoint('consumer.bootstrap.before');
    const ops = await bootstrap?.(this.context, apply);
    await this.checkpoint.bootstrapped(ops ?? []);
    if (bootstrap !== undefined) this.log.info({ partition }, 'derived from the state');
    await failpoint('consumer.bootstrap.after');
  }

  /** Applies what of the batch is new. What was thrown before its end is to be offered again. */
  async take(batch: LogBatch): Promise<void> {
    const fresh = batch.records.filter((record) => record.position > this.#cursor.position);
    const last = fresh.at(-1);
    if (last === undefined) return;
    this.#waitingSince = fresh[0]?.time;
    // The state is read behind the gap, so nothing of the new epoch is missing from it and the changes together.
    const opened = epochOf(last.position) > epochOf(this.#cursor.position);
    if (opened) await this.bootstrap();
    const { items, newer } = this.#read(fresh);
    for (const { part, end } of this.#parts(items)) {
      const place = end && newer === undefined ? batch.cursor : this.#behind(part);
      const request = part[0] === undefined ? undefined : requestIn(part[0]);
      if (request?.value.consumer === this.options.name) await new Replay(this, request).run(place);
      else await this.#apply(part, place);
      this.#waitingSince = part.at(-1)?.record.time;
    }
    if (newer !== undefined) throw newer;
    this.#waitingSince = undefined;
    if (items.length > 0) return;
    this.#passedOver += fresh.length;
    this.#cursor = batch.cursor;
    // Who takes over without a place has to derive everything anew once the log has dropped its first records.
    const first = this.checkpoint.value.position === START;
    if (opened || first || this.#passedOver >= this.options.idleRecords) await this.advance([], batch.cursor);
  }

  /** Commits writes with the place behind them. */
  async advance(ops: readonly BatchOp[], cursor: Cursor): Promise<void> {
    await this.checkpoint.advance(ops, cursor);
    this.#cursor = cursor;
    this.#passedOver = 0;
  }

  /** Hands changes to the handler, as part of the last one's request, and their effect to `commit`. */
  async effect(
    changes: readonly Change[],
    commit: (ops: readonly BatchOp[]) => Promise<void>,
  ): Promise<void> {
    const last = changes.at(-1);
    const work = async () => {
      await failpoint('consumer.handle.before');
      const ops = changes.length === 0 ? [] : await this.options.handle(changes, this.context);
      await commit(ops);
      await failpoint('consumer.handle.after');
    };
    const trace = newTrace(last?.requestId ?? undefined, last?.traceparent ?? undefined);
    await this.fresh(() => withTrace(trace, work));
    if (changes.length > 0) this.#events.applied(this.context.partition, changes.length);
  }

  /** Reads and writes, again where what was read was overtaken. */
  async fresh(work: () => Promise<void>): Promise<void> {
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

  /**
   * Tries until `work` is done, or has failed `maxTries` times (`once`: the first time).
   * @returns what the last try failed with
   * @throws what tells nothing about the changes
   */
  async attempt(
    work: () => Promise<void>,
    once: boolean,
  ): Promise<{ error: unknown; tries: number } | undefined> {
    const { maxTries, retryMs } = this.options;
    const backoff = new Backoff(retryMs, 16 * retryMs);
    for (let tries = 1; ; tries++) {
      try {
        await work();
        return undefined;
      } catch (error) {
        if (error instanceof PartitionLostError || isAway(error) || this.checkpoint.inDoubt) throw error;
        this.#events.failed(this.context.partition);
        if (once || tries >= maxTries) return { error, tries };
        this.log.warn(
          { err: error, partition: this.context.partition, tries },
          `a change was not applied, trying again: ${messageOf(error)}`,
        );
        await backoff.pause();
      }
    }
  }

  /** The records that concern this consumer, up to the first that is of a newer version. */
  #read(records: readonly LogRecord[]): { items: readonly Item[]; newer: UnreadableChangeError | undefined } {
    const items: Item[] = [];
    for (const record of records) {
      try {
        const change = parseChange(record);
        if (this.#buckets.has(change.bucket)) items.push({ record, change });
      } catch (error) {
        if (!(error instanceof UnreadableChangeError)) throw error;
        if (error.newer) return { items, newer: error };
        if (error.bucket !== undefined && !this.#buckets.has(error.bucket)) continue;
        items.push({ record, change: undefined, unreadable: error.message });
      }
    }
    return { items, newer: undefined };
  }

  /** Cuts items into parts of a bounded size, between transactions; a request is a part of its own. */
  *#parts(items: readonly Item[]): Generator<{ part: readonly Item[]; end: boolean }> {
    let part: Item[] = [];
    let bytes = 0;
    for (const item of items) {
      const alone = item.change?.bucket === requestBucket;
      const full = part.length >= this.options.maxChanges || bytes + item.record.body.length > maxBytes;
      const before = part.at(-1);
      const cut = full && before !== undefined && !sameTransaction(before, item);
      if (before !== undefined && (alone || cut || before.change?.bucket === requestBucket)) {
        yield { part, end: false };
        part = [];
        bytes = 0;
      }
      part.push(item);
      bytes += item.record.body.length;
    }
    if (part.length > 0) yield { part, end: true };
  }

  async #apply(part: readonly Item[], place: Cursor): Promise<void> {
    const failed = await this.attempt(() => this.#commit(part, place), part.length > 1);
    if (failed === undefined) return;
    const [only] = part;
    if (part.length > 1) {
      const { partition } = this.context;
      this.log.warn(
        { err: failed.error, partition, changes: part.length },
        `some changes were not applied, trying fewer: ${messageOf(failed.error)}`,
      );
      const half = middleOf(part);
      await this.#apply(part.slice(0, half), this.#behind(part.slice(0, half)));
      await this.#apply(part.slice(half), place);
    } else if (only !== undefined) {
      await this.#putAside(only, failed, place);
    }
  }

  async #commit(part: readonly Item[], place: Cursor): Promise<void> {
    const changes: Change[] = [];
    const waiting: Item[] = [];
    const starting = new Map<string, string>();
    for (const item of part) {
      const { partitionKey } = item.record;
      if (item.change === undefined && this.heldKeys.get(partitionKey) === undefined)
        starting.set(partitionKey, starting.get(partitionKey) ?? item.unreadable ?? '');
      const waits = starting.has(partitionKey) || this.heldKeys.get(partitionKey) !== undefined;
      if (item.change?.bucket === requestBucket) continue;
      if (waits || item.change === undefined) waiting.push(item);
      else changes.push(item.change);
    }
    const plan = this.heldKeys.add(waiting.map(asideOf), ({ record }) => {
      const reason = starting.get(record.partitionKey) ?? '';
      this.#say(record, reason, 1);
      return { reason, tries: 1 };
    });
    await this.effect(changes, async (ops) => {
      await this.advance([...ops, ...plan.ops], place);
      plan.done();
    });
  }

  async #putAside(
    item: Item,
    { error, tries }: { error: unknown; tries: number },
    place: Cursor,
  ): Promise<void> {
    const { maxHeldKeys } = this.options;
    // What fails for everything is no poison: to wait until it is mended loses nothing, and hides nothing.
    if (this.heldKeys.get(item.record.partitionKey) !== undefined || this.heldKeys.size >= maxHeldKeys)
      throw error;
    const reason = messageOf(error);
    const plan = this.heldKeys.add([asideOf(item)], () => ({ reason, tries }));
    await this.advance(plan.ops, place);
    plan.done();
    this.#say(item.record, reason, tries);
  }

  #say({ partition, position, partitionKey }: LogRecord, reason: string, tries: number): void {
    this.log.error(
      { partition, position, partitionKey, tries, bucket: poisonBucket },
      `a change was put aside, with all that follow it for its partition key: ${reason}`,
    );
  }

  /** In mid-batch the log's offset is not known: reading on from an earlier one repeats what the position drops. */
  #behind(part: readonly Item[]): Cursor {
    const position = part.at(-1)?.record.position ?? this.#cursor.position;
    return { position, offset: this.#cursor.offset };
  }
}

function sameTransaction(a: Item, b: Item): boolean {
  return transactionOf(a.record.position) === transactionOf(b.record.position);
}

/** Where two or more items are cut in two: between the transactions next to the middle, or within the only one. */
function middleOf(items: readonly Item[]): number {
  const half = Math.ceil(items.length / 2);
  const ends = items.flatMap((item, i) => {
    const before = items[i - 1];
    return before === undefined || sameTransaction(before, item) ? [] : [i];
  });
  return ends.reduce((best, i) => (Math.abs(i - half) < Math.abs(best - half) ? i : best), ends[0] ?? half);
}

function asideOf({ record, change }: Item): Aside {
  return { record, bucket: change?.bucket ?? null, key: change?.key ?? null };
}
