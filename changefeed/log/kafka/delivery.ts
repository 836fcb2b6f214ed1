import type { FetchedMessage } from 'kafkajs/src/cluster/index.js';
import { messageOf } from '../../../runtime/errors.ts';
import type { Logger } from '../../../runtime/log.ts';
import { counter } from '../../../runtime/metrics.ts';
import { Backoff } from '../../backoff.ts';
import { START } from '../../position.ts';
import type { LogBatch, LogRecord, Position } from '../../types.ts';
import { Whole } from '../../whole.ts';
import type { Fetched } from './fetch.ts';
import { fromMessage, sizeOf } from './records.ts';
import { doubtfulFrom, isAnotherTopic } from './same-topic.ts';

/** What one batch holds at most; what a transaction has in the partition may be larger. */
const maxBatchRecords = 500;
const maxBatchBytes = 1 << 20;
/** Past this nothing more is fetched for the partition until some has been handled, if any can be. */
const maxQueuedBytes = 2 << 20;

const dropped = counter(
  'conger_kafka_records_dropped_total',
  'records of the log that readers dropped, by reason: a position that does not increase, or not a record of ours',
  ['reason'],
);

export interface DeliveryOptions {
  readonly partition: number;
  /** Where the first fetch starts. */
  readonly offset: bigint;
  /** Records before this offset are not handed over; their positions count. */
  readonly tellFrom?: bigint;
  /** Records up to this position are dropped. */
  readonly position: Position;
  readonly log: Logger;
  onBatch(batch: LogBatch): void | Promise<void>;
  /** Records are gone unread, or the topic is another one: called before what comes behind the gap. */
  onGap?(): void | Promise<void>;
  /** Everything before `offset` has been handled, or waits for the rest of its transaction. */
  onProgress?(partition: number, offset: bigint): void;
  /** There is room again. */
  onRoom(): void;
}

interface Queued {
  /** Undefined: a gap. */
  readonly record: LogRecord | undefined;
  readonly next: bigint;
  /** Whether a batch may end behind it. */
  end: boolean;
}

/**
 * Hands the records of one partition to their handler: positions only ever increase, one batch at a time, and the next
 * only after the handler has taken the one before. A handler that throws gets the same batch again. What a transaction
 * has in the partition is in one batch, unless it is too large.
 *
 * An offset means nothing in a topic that was deleted and made again. So where connections are new, or no fetch was under
 * way for a while, the next one begins at the last record that was read: one that is of a later position shows that the
 * topic is another one.
 */
export class Delivery {
  readonly partition: number;
  readonly #options: DeliveryOptions;
  readonly #stopped = new AbortController();
  #queue: Queued[] = [];
  #queuedBytes = 0;
  /** How many of the first of the queue can be handed over. */
  #ready = 0;
  readonly #whole = new Whole();
  /** The position of the last record that was queued, and the offset behind the last that was fetched. */
  #position: Position;
  #next: bigint;
  #sameTopic = false;
  /** A broker had what a fetch asked for: what it has not any more is gone unread. */
  #begun = false;
  /** A gap was found, and no record behind it yet. */
  #gap = false;
  #busy = false;
  #running: Promise<void> = Promise.resolve();

  constructor(options: DeliveryOptions) {
    this.#options = options;
    this.partition = options.partition;
    this.#position = options.position || START;
    this.#next = options.offset;
  }

  /** Behind all that was fetched. */
  get next(): bigint {
    return this.#next;
  }

  /** Where the next fetch starts. */
  get from(): bigint {
    return this.#sameTopic ? this.#next : doubtfulFrom(this.#next, this.#position);
  }

  /** The topic may have been made anew since the last fetch. */
  doubt(): void {
    this.#sameTopic = false;
  }

  get hasRoom(): boolean {
    return this.#queuedBytes < maxQueuedBytes || this.#ready === 0;
  }

  /** Takes what a fetch from `from` has found; undefined: nothing yet. */
  push(fetched: Fetched | undefined): void {
    if (this.#stopped.signal.aborted) return;
    this.#begun = true;
    if (fetched === undefined) return;
    const { messages, next } = fetched;
    if (!this.#sameTopic && isAnotherTopic(messages, this.partition, this.#next, this.#position)) {
      this.#lose(0n);
      return;
    }
    this.#sameTopic = true;
    for (const message of messages) if (BigInt(message.offset) >= this.#next) this.#queueUp(message);
    if (next > this.#next) this.#next = next;
    this.#work();
  }

  /**
   * The broker did not have the offset of the last fetch; now it has those from `low` up to, not including, `high`,
   * which may be more than it had then.
   */
  outOfRange(low: bigint, high: bigint): void {
    if (this.#stopped.signal.aborted) return;
    if (!this.#begun && this.#position === START && this.#next === 0n) {
      // Whoever begins at the oldest record has missed none.
      this.#next = low;
      this.#work();
    } else if (this.#next < low || this.#next > high || this.#sameTopic) {
      this.#lose(low);
    } else if (this.#next === low) {
      // The record before is trimmed: nothing is missing, and nothing can be told.
      this.#sameTopic = true;
    }
  }

  /** Nothing is delivered any more; resolves when the handler is not running any more. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    await this.#running;
  }

  #queueUp(message: FetchedMessage): void {
    const record = fromMessage(this.partition, message);
    if (record === undefined) {
      dropped.inc({ reason: 'foreign' });
      this.#options.log.error(
        { partition: this.partition, offset: message.offset },
        'the topic holds a record that Conger has not written: ignored',
      );
    } else if (record.position <= this.#position) {
      dropped.inc({ reason: 'repeated' });
    } else {
      this.#gap = false;
      this.#position = record.position;
      const offset = BigInt(message.offset);
      if (offset < (this.#options.tellFrom ?? 0n)) return;
      this.#queuedBytes += sizeOf(record);
      this.#queue.push({ record, next: offset + 1n, end: false });
      this.#release(this.#whole.add(record));
    }
  }

  /** All but the last so many can be handed over. */
  #release(waiting: number): void {
    this.#ready = this.#queue.length - waiting;
    const last = this.#queue[this.#ready - 1];
    if (last !== undefined) last.end = true;
  }

  /** What was to come is not there: reads on from `offset`, where positions tell what was read before. */
  #lose(offset: bigint): void {
    this.#options.log.error(
      { partition: this.partition, position: this.#position, next: String(this.#next), from: String(offset) },
      'the log does not hold what comes next: reading from its oldest record',
    );
    this.#next = offset;
    this.#sameTopic = true;
    if (this.#gap) return;
    this.#gap = true;
    this.#release(this.#whole.pass());
    this.#queue.push({ record: undefined, next: offset, end: true });
    this.#ready++;
    this.#work();
  }

  #work(): void {
    if (this.#busy) return;
    this.#busy = true;
    this.#running = this.#drain();
  }

  async #drain(): Promise<void> {
    const { signal } = this.#stopped;
    while (this.#ready > 0 && !signal.aborted) {
      if (this.#queue[0]?.record === undefined) {
        this.#unqueue(1, 0);
        await this.#offer(undefined, () => this.#options.onGap?.());
        continue;
      }
      const batch = this.#take();
      await this.#offer(batch.records[0]?.position, () => this.#options.onBatch(batch));
      if (!signal.aborted) this.#options.onProgress?.(this.partition, BigInt(batch.cursor.offset));
    }
    if (!signal.aborted) this.#options.onProgress?.(this.partition, this.#next);
    this.#busy = false;
  }

  #take(): LogBatch {
    const records: LogRecord[] = [];
    let bytes = 0;
    let next = this.#next;
    let end = false;
    for (const queued of this.#queue.slice(0, this.#ready)) {
      const { record } = queued;
      if (record === undefined) break;
      const size = sizeOf(record);
      if (end && (records.length >= maxBatchRecords || bytes + size > maxBatchBytes)) break;
      bytes += size;
      records.push(record);
      ({ next, end } = queued);
    }
    const last = records.at(-1);
    if (last === undefined) throw new Error('there is nothing to deliver');
    this.#unqueue(records.length, bytes);
    const offset = String(this.#queue.length === 0 ? this.#next : next);
    return { partition: this.partition, records, cursor: { position: last.position, offset } };
  }

  /** The first of the queue are on their way to the handler. */
  #unqueue(count: number, bytes: number): void {
    const hadRoom = this.hasRoom;
    this.#queue.splice(0, count);
    this.#ready -= count;
    this.#queuedBytes -= bytes;
    if (!hadRoom && this.hasRoom) this.#options.onRoom();
  }

  async #offer(position: Position | undefined, offer: () => void | Promise<void>): Promise<void> {
    const backoff = new Backoff(100, 5_000);
    while (!this.#stopped.signal.aborted) {
      try {
        return await offer();
      } catch (error) {
        this.#options.log.warn(
          { err: error, partition: this.partition, position },
          `a batch was not taken, and will be offered again: ${messageOf(error)}`,
        );
        await backoff.pause(this.#stopped.signal);
      }
    }
  }
}
