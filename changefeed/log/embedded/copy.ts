import type pg from 'pg';
import type { LogRecord } from '../../types.ts';

/** The columns of an encoded record, in order. */
export const COPY_COLUMNS = 'partition, position, seq, partition_key, xid, idx, cnt, last, time, body';
const FIELDS = 10;

const COPY_DATA = 0x64;
const COPY_DONE = Buffer.from([0x63, 0, 0, 0, 4]);
const FRAME = 5;
/** Bytes of one CopyData message, unless a single record is larger. */
const FRAME_BYTES = 256 * 1024;

/** PGCOPY header of the binary format: signature, flags, no extension. */
const HEADER = Buffer.from('5047434f50590aff0d0a000000000000000000', 'hex');
const TRAILER = Buffer.from([0xff, 0xff]);
/** Of a record without its texts: field count, ten lengths, four ints, three bigints. */
const FIXED = 2 + FIELDS * 4 + 4 * 4 + 3 * 8;

/**
 * Records in PostgreSQL's binary COPY format, framed as protocol messages: CopyData, ..., CopyDone. The records' `seq`
 * count up from `firstSeq`.
 */
export function encodeCopy(records: readonly LogRecord[], firstSeq: number): Buffer[] {
  const frames: Buffer[] = [];
  let start = 0;
  let size = HEADER.length;
  const flush = (end: number) => {
    frames.push(encodeFrame(records, start, end, size, firstSeq));
    start = end;
    size = 0;
  };
  records.forEach((record, i) => {
    const bytes = mostBytes(record);
    if (i > start && size + bytes > FRAME_BYTES) flush(i);
    size += bytes;
  });
  flush(records.length);
  frames.push(COPY_DONE);
  return frames;
}

/** What a record takes, or more: of a key's UTF-16 units none takes more than three bytes. */
function mostBytes({ position, partitionKey, body }: LogRecord): number {
  return FIXED + position.length + 3 * partitionKey.length + body.length;
}

/** One CopyData of at most so many bytes; the first one begins the data, the last one ends it. */
function encodeFrame(
  records: readonly LogRecord[],
  start: number,
  end: number,
  most: number,
  firstSeq: number,
): Buffer {
  const frame = Buffer.allocUnsafe(FRAME + most + TRAILER.length);
  let at = FRAME;
  if (start === 0) at += HEADER.copy(frame, at);
  for (let i = start; i < end; i++) {
    const record = records[i];
    if (record !== undefined) at = putRecord(frame, at, record, firstSeq + i);
  }
  if (end === records.length) at += TRAILER.copy(frame, at);
  frame[0] = COPY_DATA;
  frame.writeUInt32BE(at - 1, 1);
  return frame.subarray(0, at);
}

function putRecord(to: Buffer, offset: number, record: LogRecord, seq: number): number {
  let at = to.writeInt16BE(FIELDS, offset);
  at = putInt(to, at, record.partition);
  at = putText(to, at, record.position);
  at = putBigint(to, at, seq);
  at = putText(to, at, record.partitionKey);
  at = putBigint(to, at, Number(record.xid));
  at = putInt(to, at, record.index);
  at = putInt(to, at, record.count);
  at = record.last === undefined ? to.writeInt32BE(-1, at) : putInt(to, at, record.last);
  at = putBigint(to, at, record.time);
  at = to.writeInt32BE(record.body.length, at);
  to.set(record.body, at);
  return at + record.body.length;
}

function putInt(to: Buffer, at: number, n: number): number {
  to.writeInt32BE(4, at);
  return to.writeInt32BE(n, at + 4);
}

/** A column of 64 bits: what is exact in a number, 2^53, is more than what any of these comes to. */
function putBigint(to: Buffer, at: number, n: number): number {
  to.writeInt32BE(8, at);
  to.writeInt32BE(Math.floor(n / 2 ** 32), at + 4);
  return to.writeUInt32BE(n >>> 0, at + 8);
}

function putText(to: Buffer, at: number, text: string): number {
  const bytes = to.write(text, at + 4);
  to.writeInt32BE(bytes, at);
  return at + 4 + bytes;
}

/**
 * A string of statements with one `COPY ... FROM STDIN` among them, sent together with the data in one go: one round
 * trip, one transaction. Where a statement before the COPY fails, PostgreSQL ignores the data (protocol-flow, "COPY
 * Operations").
 */
export class CopyStatement {
  readonly done: Promise<void>;
  readonly #text: string;
  readonly #frames: readonly Buffer[];
  #resolve: () => void = () => undefined;
  #reject: (error: Error) => void = () => undefined;

  constructor(text: string, frames: readonly Buffer[]) {
    this.#text = text;
    this.#frames = frames;
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  // What pg calls on whatever is given to `client.query`.
  submit(connection: pg.Connection): void {
    connection.query(this.#text);
    for (const frame of this.#frames) connection.stream.write(frame);
  }
  handleError(error: Error): void {
    this.#reject(error);
  }
  handleReadyForQuery(): void {
    this.#resolve();
  }
  handleRowDescription(): void {}
  handleDataRow(): void {}
  handleCommandComplete(): void {}
  handleEmptyQuery(): void {}
  handlePortalSuspended(): void {}
  handleCopyInResponse(): void {}
  handleCopyData(): void {}
}
