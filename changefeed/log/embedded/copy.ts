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
/** Of a record without its texts and `last`: field count, ten lengths, three ints, three bigints. */
const FIXED = 2 + FIELDS * 4 + 3 * 4 + 3 * 8;

/**
 * Records in PostgreSQL's binary COPY format, framed as protocol messages: CopyData, ..., CopyDone. The records' `seq`
 * count up from `firstSeq`.
 */
export function encodeCopy(records: readonly LogRecord[], firstSeq: bigint): Buffer[] {
  const frames: Buffer[] = [];
  let start = 0;
  let size = HEADER.length;
  const flush = (end: number) => {
    frames.push(encodeFrame(records, start, end, size, firstSeq, end === records.length));
    start = end;
    size = 0;
  };
  records.forEach((record, i) => {
    const bytes = sizeOf(record);
    if (i > start && size + bytes > FRAME_BYTES) flush(i);
    size += bytes;
  });
  flush(records.length);
  frames.push(COPY_DONE);
  return frames;
}

function sizeOf(record: LogRecord): number {
  const last = record.last === undefined ? 0 : 4;
  return FIXED + last + record.position.length + Buffer.byteLength(record.partitionKey) + record.body.length;
}

function encodeFrame(
  records: readonly LogRecord[],
  start: number,
  end: number,
  size: number,
  firstSeq: bigint,
  last: boolean,
): Buffer {
  const frame = Buffer.allocUnsafe(FRAME + size + (last ? 2 : 0));
  frame[0] = COPY_DATA;
  frame.writeUInt32BE(frame.length - 1, 1);
  let at = FRAME;
  if (start === 0) at += HEADER.copy(frame, at);
  for (let i = start; i < end; i++) {
    const record = records[i];
    if (record !== undefined) at = encodeRecord(frame, at, record, firstSeq + BigInt(i));
  }
  if (last) frame.writeInt16BE(-1, at);
  return frame;
}

function encodeRecord(to: Buffer, offset: number, record: LogRecord, seq: bigint): number {
  let at = to.writeInt16BE(FIELDS, offset);
  const int = (n: number) => {
    at = to.writeInt32BE(4, at);
    at = to.writeInt32BE(n, at);
  };
  const bigint = (n: bigint) => {
    at = to.writeInt32BE(8, at);
    at = to.writeBigInt64BE(n, at);
  };
  const text = (s: string) => {
    const length = to.write(s, at + 4);
    to.writeInt32BE(length, at);
    at += 4 + length;
  };
  int(record.partition);
  text(record.position);
  bigint(seq);
  text(record.partitionKey);
  bigint(BigInt(record.xid));
  int(record.index);
  int(record.count);
  if (record.last === undefined) at = to.writeInt32BE(-1, at);
  else int(record.last);
  bigint(BigInt(record.time));
  at = to.writeInt32BE(record.body.length, at);
  return at + record.body.copy(to, at);
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
