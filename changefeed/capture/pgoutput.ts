/**
 * Decoder of pgoutput, protocol version 2, as far as the capture needs it: transactions, also those that are sent in
 * parts while they are in progress, and logical messages. The publication has no tables, so nothing else is expected;
 * whatever comes all the same is skipped.
 */
export type PgOutput =
  | {
      readonly kind: 'begin';
      /** LSN of the transaction's commit record. */
      readonly commitLsn: bigint;
      /** In milliseconds since 1970. */
      readonly time: number;
      /** The low 32 bits of the transaction id. */
      readonly xid32: number;
    }
  | {
      readonly kind: 'commit';
      readonly commitLsn: bigint;
      /** LSN right behind the commit record: what confirms the transaction. */
      readonly endLsn: bigint;
    }
  | {
      readonly kind: 'message';
      readonly transactional: boolean;
      readonly prefix: string;
      /** A view into the given buffer. */
      readonly content: Buffer;
    }
  | {
      /** What follows, up to `stream-stop`, is a part of this transaction, which is in progress. */
      readonly kind: 'stream-start';
      readonly xid32: number;
    }
  | { readonly kind: 'stream-stop' }
  | {
      readonly kind: 'stream-commit';
      readonly xid32: number;
      readonly commitLsn: bigint;
      readonly endLsn: bigint;
      readonly time: number;
    }
  | {
      readonly kind: 'stream-abort';
      readonly xid32: number;
      /** What is rolled back: a subtransaction, or, where it is `xid32`, everything. */
      readonly subxid32: number;
    };

const BEGIN = 0x42;
const COMMIT = 0x43;
const MESSAGE = 0x4d;
const STREAM_START = 0x53;
const STREAM_STOP = 0x45;
const STREAM_COMMIT = 0x63;
const STREAM_ABORT = 0x41;

const TRANSACTIONAL = 1;

/** PostgreSQL's epoch, 2000-01-01, in milliseconds since 1970. */
export const PG_EPOCH_MS = 946_684_800_000;

/**
 * @param inStream whether it came between `stream-start` and `stream-stop`: then a message begins with the transaction's id
 * @throws RangeError on a truncated message.
 */
export function decodePgOutput(data: Buffer, inStream = false): PgOutput | undefined {
  switch (data[0]) {
    case BEGIN:
      return {
        kind: 'begin',
        commitLsn: data.readBigUInt64BE(1),
        time: timeAt(data, 9),
        xid32: data.readUInt32BE(17),
      };
    case COMMIT:
      return { kind: 'commit', commitLsn: data.readBigUInt64BE(2), endLsn: data.readBigUInt64BE(10) };
    case MESSAGE:
      return decodeMessage(data, inStream ? 5 : 1);
    case STREAM_START:
      return { kind: 'stream-start', xid32: data.readUInt32BE(1) };
    case STREAM_STOP:
      return { kind: 'stream-stop' };
    case STREAM_COMMIT:
      return {
        kind: 'stream-commit',
        xid32: data.readUInt32BE(1),
        commitLsn: data.readBigUInt64BE(6),
        endLsn: data.readBigUInt64BE(14),
        time: timeAt(data, 22),
      };
    case STREAM_ABORT:
      return { kind: 'stream-abort', xid32: data.readUInt32BE(1), subxid32: data.readUInt32BE(5) };
    default:
      return undefined;
  }
}

function timeAt(data: Buffer, offset: number): number {
  return PG_EPOCH_MS + Math.floor(Number(data.readBigInt64BE(offset)) / 1000);
}

function decodeMessage(data: Buffer, at: number): PgOutput {
  const flags = data.readUInt8(at);
  const prefixStart = at + 9;
  const prefixEnd = data.indexOf(0, prefixStart);
  if (prefixEnd < 0) throw new RangeError('truncated pgoutput message: no end of prefix');
  const start = prefixEnd + 5;
  const length = data.readUInt32BE(prefixEnd + 1);
  if (start + length > data.length) throw new RangeError('truncated pgoutput message: content too short');
  return {
    kind: 'message',
    transactional: (flags & TRANSACTIONAL) !== 0,
    prefix: data.toString('utf8', prefixStart, prefixEnd),
    content: data.subarray(start, start + length),
  };
}
