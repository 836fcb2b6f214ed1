import { failpoint } from '../../runtime/failpoints.ts';
import type { LogRecord, LogWriter, Position } from '../types.ts';
import type { CapturedRecord, CapturedTransaction, LargeTransaction } from './assembler.ts';

/**
 * Records and bytes of one append. It is also what a capture that was stopped may repeat in Kafka, and readers count on
 * its being no more (log/kafka/pages.ts).
 */
const BATCH_RECORDS = 2_000;
const BATCH_BYTES = 2 * 1024 * 1024;
/** Bytes of bodies that may wait before the stream is paused, and below which it goes on. */
const HIGH_WATER = 16 * 1024 * 1024;
const LOW_WATER = 8 * 1024 * 1024;

export interface PipelineOptions {
  /** What `writer.open` answered. */
  readonly tails: readonly Position[];
  readonly append: LogWriter['append'];
  /** Waits until the transactions are visible; answers their 64-bit ids. */
  readonly visible: (xids32: readonly number[], signal: AbortSignal) => Promise<readonly bigint[]>;
  /** Everything before the LSN is dealt with. */
  readonly confirm: (lsn: bigint, urgent: boolean) => void;
  readonly pause: () => void;
  readonly resume: () => void;
  readonly appended?: (records: readonly LogRecord[]) => void;
}

/**
 * From the stream to the log. Transactions are appended in the order in which they came, one append at a time, while
 * the next batch gathers; only once they are visible on the primary; and none twice: a record that does not come after
 * its partition's tail is already there. An LSN is confirmed only when every record before it is in the log.
 */
export class Pipeline {
  readonly #options: PipelineOptions;
  readonly #tails: Position[];
  readonly #stop = new AbortController();
  #queue: CapturedTransaction[] = [];
  #queuedBytes = 0;
  #paused = false;
  /** Until `run`, too: what comes before it waits, and is not confirmed either. */
  #working = true;
  /** Everything before this LSN has been handed in. */
  #received = 0n;
  #wake: (() => void) | undefined;

  constructor(options: PipelineOptions) {
    this.#options = options;
    this.#tails = [...options.tails];
  }

  push(transaction: CapturedTransaction): void {
    this.#received = transaction.endLsn;
    if (transaction.records.length === 0 && transaction.large === undefined) {
      this.#confirmIfDone();
      return;
    }
    this.#queue.push(transaction);
    this.#queuedBytes += weightOf(transaction);
    if (this.#queuedBytes > HIGH_WATER && !this.#paused) {
      this.#paused = true;
      this.#options.pause();
    }
    this.#wake?.();
  }

  /** Every transaction that was committed before `lsn` has been pushed. */
  reached(lsn: bigint): void {
    if (lsn > this.#received) this.#received = lsn;
    this.#confirmIfDone();
  }

  /** Works until `stop`; the append in flight is finished first. Rejects when an append fails. */
  async run(): Promise<void> {
    const { signal } = this.#stop;
    this.#working = false;
    while (!signal.aborted) {
      if (this.#queue.length === 0) {
        this.#confirmIfDone();
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        continue;
      }
      this.#working = true;
      await this.#work(signal);
      this.#working = false;
    }
  }

  stop(): void {
    this.#stop.abort();
    this.#wake?.();
  }

  async #work(signal: AbortSignal): Promise<void> {
    const batch = this.#take();
    let xids: readonly bigint[];
    try {
      await failpoint('capture.visible.before');
      xids = await this.#options.visible(
        batch.map((transaction) => transaction.xid32),
        signal,
      );
    } catch (error) {
      if (signal.aborted) return;
      throw error;
    }
    await failpoint('capture.visible.after');
    for await (const slice of this.#slices(batch, xids)) {
      if (signal.aborted) return;
      if (slice.length === 0) continue;
      await failpoint('capture.append.before');
      await this.#options.append(slice);
      await failpoint('capture.append.after');
      for (const record of slice) this.#tails[record.partition] = record.position;
      this.#options.appended?.(slice);
    }
    const last = batch.at(-1);
    await failpoint('capture.confirm.before');
    if (last !== undefined)
      this.#options.confirm(this.#queue.length === 0 ? this.#received : last.endLsn, true);
    await failpoint('capture.confirm.after');
    if (this.#paused && this.#queuedBytes < LOW_WATER) {
      this.#paused = false;
      this.#options.resume();
    }
  }

  /** What of the batch is new, in appends of a bounded size. */
  #slices(
    batch: readonly CapturedTransaction[],
    xids: readonly bigint[],
  ): Iterable<LogRecord[]> | AsyncIterable<LogRecord[]> {
    const large = batch[0]?.large;
    if (large !== undefined) return this.#largeSlices(large, String(xids[0]));
    const records = batch.flatMap((transaction, i) => this.#newOnes(transaction.records, String(xids[i])));
    return slices(records);
  }

  async *#largeSlices(large: LargeTransaction, xid: string): AsyncGenerator<LogRecord[]> {
    try {
      for await (const slice of large.slices({ records: BATCH_RECORDS, bytes: BATCH_BYTES })) {
        yield this.#newOnes(slice, xid);
      }
    } finally {
      large.close();
    }
  }

  #newOnes(records: readonly CapturedRecord[], xid: string): LogRecord[] {
    return records.filter((record) => this.#isNew(record)).map((record) => ({ ...record, xid }));
  }

  /** One large transaction, or others up to the size of an append. */
  #take(): CapturedTransaction[] {
    let records = 0;
    let bytes = 0;
    let n = 0;
    for (const transaction of this.#queue) {
      const alone = transaction.large !== undefined || this.#queue[0]?.large !== undefined;
      if (
        n > 0 &&
        (alone ||
          records + transaction.records.length > BATCH_RECORDS ||
          bytes + transaction.bytes > BATCH_BYTES)
      )
        break;
      records += transaction.records.length;
      bytes += transaction.bytes;
      n++;
    }
    const batch = this.#queue.slice(0, n);
    this.#queue = this.#queue.slice(n);
    for (const transaction of batch) this.#queuedBytes -= weightOf(transaction);
    return batch;
  }

  #isNew(record: CapturedRecord): boolean {
    return record.position > (this.#tails[record.partition] ?? '');
  }

  #confirmIfDone(): void {
    if (!this.#working && this.#queue.length === 0 && this.#received > 0n)
      this.#options.confirm(this.#received, false);
  }
}

/** One that is on disk stops the stream until it is in the log. */
function weightOf(transaction: CapturedTransaction): number {
  return transaction.large === undefined ? transaction.bytes : HIGH_WATER + 1;
}

/** Cuts records into appends of a bounded size. */
function* slices(records: readonly LogRecord[]): Generator<LogRecord[]> {
  let slice: LogRecord[] = [];
  let bytes = 0;
  for (const record of records) {
    if (slice.length >= BATCH_RECORDS || (slice.length > 0 && bytes + record.body.length > BATCH_BYTES)) {
      yield slice;
      slice = [];
      bytes = 0;
    }
    slice.push(record);
    bytes += record.body.length;
  }
  if (slice.length > 0) yield slice;
}
