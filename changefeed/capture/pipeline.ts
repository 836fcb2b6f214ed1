import { failpoint } from '../../runtime/failpoints.ts';
import type { LogRecord, LogWriter, Position } from '../types.ts';
import type { CapturedRecord, CapturedTransaction, LargeTransaction } from './assembler.ts';

/**
 * Records and bytes of one append, and how many of them may be in flight. Together these are also what a capture that was
 * stopped may repeat in Kafka, and readers count on its being no more (log/kafka/records.ts).
 */
const BATCH_RECORDS = 1_000;
const BATCH_BYTES = 1024 * 1024;
const IN_FLIGHT = 2;
/**
 * Every append costs the capture, PostgreSQL and the log about as much as some 30 records do. So one of more records than
 * a few is a sign of load, and what comes behind it gathers for this long from its beginning on, in milliseconds.
 */
const FEW_RECORDS = 8;
const GATHER_MS = 10;
/** Bytes of bodies that may wait before the stream is paused, and below which it goes on. */
const HIGH_WATER = 8 * 1024 * 1024;
const LOW_WATER = 4 * 1024 * 1024;

export interface PipelineOptions {
  /** What `writer.open` answered. */
  readonly tails: readonly Position[];
  /** Awaited before each append; rejects where there may be none. */
  readonly mayAppend?: () => Promise<void>;
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
 * From the stream to the log. Transactions are appended in the order in which they came; only once they are visible on
 * the primary; and none twice: a record that does not come after its partition's tail is already there, or is on its way.
 * An LSN is confirmed only when every record before it is in the log.
 *
 * While an append is in flight the next batch gathers. Where that is full before the append is over, it is sent behind it,
 * so that a backlog keeps the log busy while the capture prepares what comes next. A change that comes alone is sent at
 * once; under load there are few appends, and large ones.
 */
export class Pipeline {
  readonly #options: PipelineOptions;
  readonly #tails: Position[];
  readonly #stop = new AbortController();
  #queue: CapturedTransaction[] = [];
  #queuedBytes = 0;
  #queuedRecords = 0;
  #paused = false;
  /** A batch is being taken from the queue. Until `run`, too: what comes before it waits, and is not confirmed either. */
  #working = true;
  #inFlight = 0;
  /** No batch is taken before this moment (of performance.now) unless it is a full one. */
  #gatherUntil = 0;
  /** The last append, and so all of them. */
  #landed: Promise<void> = Promise.resolve();
  #failed = false;
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
    this.#queuedRecords += transaction.records.length;
    if (this.#queuedBytes > HIGH_WATER && !this.#paused) {
      this.#paused = true;
      this.#options.pause();
    }
    if (this.#isDue()) this.#wake?.();
  }

  /** Every transaction that was committed before `lsn` has been pushed. */
  reached(lsn: bigint): void {
    if (lsn > this.#received) this.#received = lsn;
    this.#confirmIfDone();
  }

  /** Works until `stop`; appends in flight are finished first. Rejects when an append fails. */
  async run(): Promise<void> {
    const { signal } = this.#stop;
    this.#working = false;
    try {
      while (!signal.aborted && !this.#failed) {
        if (this.#isDue()) {
          this.#working = true;
          await this.#work(signal);
          this.#working = false;
        } else {
          this.#confirmIfDone();
          await this.#change();
        }
      }
    } finally {
      await this.#landed.catch(() => undefined);
    }
    await this.#landed;
  }

  stop(): void {
    this.#stop.abort();
    this.#wake?.();
  }

  /** Whether to take a batch from the queue: whatever has gathered, or a full one while others are in flight. */
  #isDue(): boolean {
    if (this.#queuedRecords >= BATCH_RECORDS || this.#queuedBytes >= BATCH_BYTES) {
      return this.#inFlight < IN_FLIGHT;
    }
    return this.#inFlight === 0 && this.#queue.length > 0 && performance.now() >= this.#gatherUntil;
  }

  /** Resolves when something has come, has gathered, has landed or has failed. */
  async #change(): Promise<void> {
    const gathering = this.#gatherUntil - performance.now();
    const timer = gathering > 0 ? setTimeout(() => this.#wake?.(), Math.ceil(gathering)) : undefined;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    clearTimeout(timer);
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
      while (this.#inFlight === IN_FLIGHT && !this.#failed) await this.#change();
      if (signal.aborted || this.#failed) return;
      await this.#launch(slice);
    }
    this.#confirmOnceLanded(batch);
    if (this.#paused && this.#queuedBytes < LOW_WATER) {
      this.#paused = false;
      this.#options.resume();
    }
  }

  /** Sends an append behind those in flight. */
  async #launch(records: readonly LogRecord[]): Promise<void> {
    if (records.length === 0) return;
    await failpoint('capture.append.before');
    await this.#options.mayAppend?.();
    for (const record of records) this.#tails[record.partition] = record.position;
    this.#inFlight++;
    const append = this.#options.append(records);
    this.#inTurn(async () => {
      await append;
      await failpoint('capture.append.after');
      this.#inFlight--;
      this.#options.appended?.(records);
    });
    // Whoever is behind another that failed is not waited for.
    append.catch(() => undefined);
  }

  #confirmOnceLanded(batch: readonly CapturedTransaction[]): void {
    const last = batch.at(-1);
    if (last === undefined) return;
    this.#inTurn(async () => {
      await failpoint('capture.confirm.before');
      const done = !this.#working && this.#queue.length === 0 && this.#inFlight === 0;
      this.#options.confirm(done ? this.#received : last.endLsn, true);
      await failpoint('capture.confirm.after');
    });
  }

  /** What is to be done when every append that was sent has landed, unless one has failed. */
  #inTurn(step: () => Promise<void>): void {
    this.#landed = this.#landed.then(step);
    this.#landed.then(
      () => this.#wake?.(),
      () => {
        this.#failed = true;
        this.#wake?.();
      },
    );
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
    const fresh: LogRecord[] = [];
    for (const record of records) if (this.#isNew(record)) fresh.push({ ...record, xid });
    return fresh;
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
    this.#queuedRecords -= records;
    this.#gatherUntil = records > FEW_RECORDS ? performance.now() + GATHER_MS : 0;
    return batch;
  }

  #isNew(record: CapturedRecord): boolean {
    return record.position > (this.#tails[record.partition] ?? '');
  }

  #confirmIfDone(): void {
    const idle = !this.#working && this.#inFlight === 0;
    if (idle && this.#queue.length === 0 && this.#received > 0n) this.#options.confirm(this.#received, false);
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
