import { CongerError, isCongerError, messageOf } from '../runtime/errors.ts';
import { failpoint, failpointNow } from '../runtime/failpoints.ts';
import type { Logger } from '../runtime/log.ts';
import { counter, gauge, timer } from '../runtime/metrics.ts';
import { Backoff } from './backoff.ts';
import { parseChange } from './change.ts';
import { CatchUp } from './feeds/catch-up.ts';
import { decodeCursor, encodeCursor, type FeedCursor, parseSince } from './feeds/cursor.ts';
import { Pages } from './feeds/pages.ts';
import { RingReader } from './feeds/reader.ts';
import { type Beginning, Ring, type RingLimits } from './feeds/ring.ts';
import { Turns } from './feeds/turns.ts';
import { Waiters, type WaitOptions } from './feeds/waiters.ts';
import { START } from './position.ts';
import type { Change, LogBatch, LogReader, LogRecord, Position, Reading } from './types.ts';

export { WaitTimeoutError } from './feeds/waiters.ts';

const delaySeconds = timer(
  'conger_broadcast_delay_seconds',
  'from a change’s commit until this process saw it',
);
const unreadable = counter('conger_broadcast_unreadable_total', 'records that this process could not read');
const repeated = counter(
  'conger_broadcast_repeated_total',
  'records dropped because their position did not increase',
);
const readersNow = gauge('conger_broadcast_readers', 'feed readers in this process');

/** How many readers at once may hold a page of the log. */
const catchingUpAtOnce = 8;

export interface BroadcastOptions extends Partial<RingLimits> {
  readonly reader: LogReader;
  readonly log: Logger;
  /** How many records before the end of each partition reading begins, so that readers can resume after a restart. */
  readonly tail?: number;
}

export interface Subscription {
  /** Only changes of these buckets; absent: all. */
  readonly buckets?: readonly string[];
  /** Called in the log's order of each partition. Must not throw and must not block; what takes long goes elsewhere. */
  readonly onChange: (change: Change) => void;
  /** Called where changes may have been missed, before what comes behind them: what was told is no more the whole. */
  readonly onGap?: () => void;
}

const defaults = { tail: 2_000, maxChanges: 16_384, maxBytes: 24 * 1024 * 1024, resumeMs: 6 * 3_600_000 };

/** Starts reading the log; resolves once it has been read to the end that it had. One a process. */
export async function startBroadcast(options: BroadcastOptions): Promise<Broadcast> {
  const broadcast = new Broadcast(options);
  await broadcast.start();
  return broadcast;
}

/**
 * Every change of the shard, once, to everyone in this process who wants it: caches and projections that subscribe,
 * requests that wait for an object, and feeds, which read from the ring of recent changes.
 */
export class Broadcast {
  readonly #reader: LogReader;
  readonly #log: Logger;
  readonly #tail: number;
  readonly #ring: Ring;
  readonly #pages: Pages;
  /** The first position that was read in each partition; '' before it. */
  readonly #first: Position[];
  readonly #all = new Set<Subscription['onChange']>();
  readonly #byBucket = new Map<string, Set<Subscription['onChange']>>();
  readonly #gaps = new Set<() => void>();
  readonly #waiters = new Waiters();
  readonly #wakes = new Set<() => void>();
  #readers = 0;
  #reading: Reading | undefined;
  #live = false;
  #stopped = false;

  constructor(options: BroadcastOptions) {
    const { reader, log, tail, ...limits } = { ...defaults, ...options };
    this.#reader = reader;
    this.#log = log;
    this.#tail = tail;
    this.#pages = new Pages(reader);
    this.#ring = new Ring(reader.partitions, limits);
    this.#first = new Array<Position>(reader.partitions).fill(START);
  }

  async start(): Promise<void> {
    const began = Date.now();
    await failpoint('broadcast.start.before');
    this.#reading = await this.#reader.readAll(
      this.#tail,
      (batch) => this.#take(batch),
      (partition) => this.#lose(partition),
    );
    const begins = this.#first.map((_, partition) => this.#beginning(partition));
    this.#ring.caughtUp(began, await Promise.all(begins));
    this.#live = true;
    await failpoint('broadcast.start.after');
  }

  get partitions(): number {
    return this.#reader.partitions;
  }

  /** The last position seen in a partition; '' before the first. */
  position(partition: number): Position {
    return this.#ring.last(partition);
  }

  /** The place behind everything seen. */
  cursor(): FeedCursor {
    return encodeCursor(this.#ring.end());
  }

  /** Hands over every change from now on, until the answered function is called. */
  subscribe({ buckets, onChange, onGap }: Subscription): () => void {
    // Functions of its own, so that one handler may subscribe twice.
    const handler: Subscription['onChange'] = (change) => onChange(change);
    const gap = () => onGap?.();
    const sets = buckets === undefined ? [this.#all] : buckets.map((bucket) => this.#bucket(bucket));
    for (const set of sets) set.add(handler);
    this.#gaps.add(gap);
    return () => {
      this.#gaps.delete(gap);
      for (const set of sets) set.delete(handler);
    };
  }

  /**
   * Waits until `check` answers: it runs once now, after each change of the object, and where changes may have been missed.
   * @throws WaitTimeoutError when the time is over; the signal's reason when it is aborted; what `check` throws;
   * CongerError ServiceUnavailable when this process ends
   */
  waitFor<T>(options: WaitOptions, check: () => Promise<T | undefined>): Promise<T> {
    if (this.#stopped) return Promise.reject(ending());
    return this.#waiters.wait(options, check);
  }

  /**
   * A reader that begins right behind `since`, or behind everything seen. `wake` is called when changes have come, and
   * when reading has ended, until `close`.
   * @throws CongerError PositionGone, BadRequest (no cursor)
   */
  read(since: FeedCursor | undefined, wake: () => void): { reader: RingReader; close: () => void } {
    const reader = new RingReader(this.#ring, since === undefined ? undefined : decodeCursor(since));
    return { reader, close: this.onWake(wake) };
  }

  /** Whether a reader can begin right behind the cursor without the log. */
  reaches(cursor: FeedCursor): boolean {
    return this.#ring.reaches(decodeCursor(cursor));
  }

  /** Calls `wake` when changes have come, and when reading has ended, until the answered function is called. */
  onWake(wake: () => void): () => void {
    const own = () => wake();
    this.#wakes.add(own);
    return () => {
      this.#wakes.delete(own);
    };
  }

  /**
   * Finds a place that a client names, in the ring or else in the log. Whoever goes on from it catches up first, and
   * then continues with `join`.
   * @throws CongerError PositionGone, BadRequest (neither a cursor nor a position), ServiceUnavailable (the log)
   */
  async resume(since: string): Promise<CatchUp> {
    const catchUp = new CatchUp(this.#ring, this.#pages, parseSince(since, this.partitions));
    await catchUp.locate();
    return catchUp;
  }

  /** The reader that goes on where `catchUp` is done. @throws CongerError PositionGone where it is not */
  join(catchUp: CatchUp): RingReader {
    return new RingReader(this.#ring, catchUp.place(), catchUp.held);
  }

  /** Lets some of those who catch up hold a page. */
  readonly turns = new Turns(catchingUpAtOnce);

  /** How many readers are open, as they have said. */
  get readers(): number {
    return this.#readers;
  }

  /** Says that so many readers more are open. */
  countReaders(more: number): void {
    this.#readers += more;
    readersNow.set(this.#readers);
  }

  /** Whether `stop` was called. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** Ends every wait and reader; nothing more is handed over. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#waiters.endAll(ending());
    for (const wake of this.#wakes) wake();
    await this.#reading?.stop();
  }

  #bucket(name: string): Set<Subscription['onChange']> {
    const found = this.#byBucket.get(name);
    if (found !== undefined) return found;
    const made = new Set<Subscription['onChange']>();
    this.#byBucket.set(name, made);
    return made;
  }

  #take(batch: LogBatch): void {
    if (this.#stopped) return;
    failpointNow('broadcast.take.before');
    for (const record of batch.records) this.#takeRecord(record);
    failpointNow('broadcast.take.after');
    for (const wake of this.#wakes) wake();
  }

  /** The log has lost changes of the partition that were not read: readers are cut off, and begin anew. */
  #lose(partition: number): void {
    this.#log.error({ partition }, 'changes were lost: readers of the feed have to begin anew');
    this.#ring.lose(partition);
    this.#pages.clear();
    for (const wake of this.#wakes) wake();
    this.#tellGap();
  }

  #tellGap(): void {
    for (const gap of this.#gaps) gap();
    this.#waiters.wakeAll();
  }

  #takeRecord(record: LogRecord): void {
    const { partition, position } = record;
    if (this.#first[partition] === START) this.#first[partition] = position;
    if (position <= this.position(partition)) {
      repeated.inc();
      return;
    }
    let change: Change;
    try {
      change = parseChange(record);
    } catch (error) {
      unreadable.inc();
      this.#log.error(
        { err: error, partition, position },
        `change left out of the feed: ${messageOf(error)}`,
      );
      this.#ring.skip(partition, position);
      this.#tellGap();
      return;
    }
    if (this.#live) delaySeconds.observe(Math.max(0, Date.now() - change.time) / 1000);
    const { epoch } = this.#ring;
    this.#ring.append(change, record.body.length);
    if (this.#live && this.#ring.epoch > epoch) this.#tellGap();
    this.#hand(change, this.#byBucket.get(change.bucket));
    this.#hand(change, this.#all);
    this.#waiters.wake(change.bucket, change.key);
  }

  /**
   * Where reading began, as the log tells: how many records were read does not, as some may be repetitions, nor does the
   * time alone, as some may have been dropped for their number. Asks for some
   * 15 s where the log does not answer.
   */
  async #beginning(partition: number): Promise<Beginning> {
    const backoff = new Backoff(100, 2_000);
    for (let tries = 1; ; tries++) {
      try {
        return await this.#askBeginning(partition);
      } catch (error) {
        if (tries === 12) throw error;
        this.#log.warn({ err: error, partition }, `where the log begins is not known: ${messageOf(error)}`);
        await backoff.pause();
      }
    }
  }

  async #askBeginning(partition: number): Promise<Beginning> {
    const start = { position: START, offset: '' };
    try {
      const oldest = await this.#reader.readFrom(partition, await this.#reader.locate(partition, START));
      const first = this.#first[partition] ?? START;
      if (oldest === undefined) return first === START ? 'whole' : 'tail';
      return first !== START && (oldest.records[0]?.position ?? START) >= first ? 'whole' : 'tail';
    } catch (error) {
      if (!isCongerError(error, 'PositionGone')) throw error;
      const left = await this.#reader.behind(new Map([[partition, start]]));
      return left.get(partition) === 0 ? 'emptied' : 'tail';
    }
  }

  #hand(change: Change, handlers: ReadonlySet<Subscription['onChange']> | undefined): void {
    if (handlers === undefined) return;
    for (const handler of handlers) {
      try {
        handler(change);
      } catch (error) {
        this.#log.error(
          { err: error, position: change.position },
          `a subscriber failed: ${messageOf(error)}`,
        );
      }
    }
  }
}

/** The error of whoever waits on a process that ends. */
export function ending(): CongerError {
  return new CongerError('ServiceUnavailable', 'this instance is ending; try again');
}
