import { messageOf } from '../../../runtime/errors.ts';
import type { Logger } from '../../../runtime/log.ts';
import { counter } from '../../../runtime/metrics.ts';
import { Backoff } from '../../backoff.ts';
import { START } from '../../position.ts';
import type { LogBatch, LogRecord, Position } from '../../types.ts';
import type { Fetched } from './fetch.ts';
import { fromMessage, sizeOf } from './records.ts';

/** What one batch holds at most; a single record may be larger. */
const maxBatchRecords = 500;
const maxBatchBytes = 1 << 20;
/** Past this nothing more is fetched for the partition until some has been handled. */
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
  /** Records up to this position are dropped. */
  readonly position: Position;
  readonly log: Logger;
  onBatch(batch: LogBatch): void | Promise<void>;
  /** Everything before `offset` has been handled. */
  onProgress?(partition: number, offset: bigint): void;
  /** There is room again. */
  onRoom(): void;
}

/**
 * Hands the records of one partition to their handler: positions only ever increase, one batch at a time, and the next
 * only after the handler has taken the one before. A handler that throws gets the same batch again.
 */
export class Delivery {
  readonly partition: number;
  readonly #options: DeliveryOptions;
  readonly #stopped = new AbortController();
  #queue: { readonly record: LogRecord; readonly next: bigint }[] = [];
  #queuedBytes = 0;
  /** The position of the last record that was queued, and the offset behind the last that was fetched. */
  #position: Position;
  #next: bigint;
  #busy = false;
  #running: Promise<void> = Promise.resolve();

  constructor(options: DeliveryOptions) {
    this.#options = options;
    this.partition = options.partition;
    this.#position = options.position || START;
    this.#next = options.offset;
  }

  /** Where the next fetch starts. */
  get next(): bigint {
    return this.#next;
  }

  get hasRoom(): boolean {
    return this.#queuedBytes < maxQueuedBytes;
  }

  /** Takes what a fetch from `next` has found. */
  push({ messages, next }: Fetched): void {
    if (this.#stopped.signal.aborted) return;
    for (const message of messages) {
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
        this.#position = record.position;
        this.#queuedBytes += sizeOf(record);
        this.#queue.push({ record, next: BigInt(message.offset) + 1n });
      }
    }
    this.#next = next;
    this.#work();
  }

  /** Goes on from `offset`, as what lay between is not there. */
  skipTo(offset: bigint): void {
    this.push({ partition: this.partition, messages: [], next: offset });
  }

  /** Nothing is delivered any more; resolves when the handler is not running any more. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    await this.#running;
  }

  #work(): void {
    if (this.#busy) return;
    this.#busy = true;
    this.#running = this.#drain();
  }

  async #drain(): Promise<void> {
    const { signal } = this.#stopped;
    while (this.#queue.length > 0 && !signal.aborted) {
      const batch = this.#take();
      await this.#deliver(batch);
      if (!signal.aborted) this.#options.onProgress?.(this.partition, BigInt(batch.cursor.offset));
    }
    if (!signal.aborted) this.#options.onProgress?.(this.partition, this.#next);
    this.#busy = false;
  }

  #take(): LogBatch {
    let bytes = 0;
    let count = 0;
    for (const { record } of this.#queue) {
      const size = sizeOf(record);
      if (count === maxBatchRecords || (count > 0 && bytes + size > maxBatchBytes)) break;
      bytes += size;
      count++;
    }
    const taken = this.#queue.splice(0, count);
    const last = taken.at(-1);
    if (last === undefined) throw new Error('there is nothing to deliver');
    const hadRoom = this.hasRoom;
    this.#queuedBytes -= bytes;
    if (!hadRoom && this.hasRoom) this.#options.onRoom();
    return {
      partition: this.partition,
      records: taken.map(({ record }) => record),
      cursor: {
        position: last.record.position,
        offset: String(this.#queue.length === 0 ? this.#next : last.next),
      },
    };
  }

  async #deliver(batch: LogBatch): Promise<void> {
    const backoff = new Backoff(100, 5_000);
    while (!this.#stopped.signal.aborted) {
      try {
        return await this.#options.onBatch(batch);
      } catch (error) {
        this.#options.log.warn(
          { err: error, partition: this.partition, position: batch.records[0]?.position },
          `a batch was not taken, and will be offered again: ${messageOf(error)}`,
        );
        await backoff.pause(this.#stopped.signal);
      }
    }
  }
}
