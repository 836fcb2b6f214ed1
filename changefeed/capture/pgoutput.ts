/**
 * Decoder of pgoutput, protocol version 1, as far as the capture needs it: transactions and logical messages. The
 * publication has no tables, so nothing else is expected; whatever comes all the same is skipped.
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
    };

const BEGIN = 0x42;
const COMMIT = 0x43;
const MESSAGE = 0x4d;

const TRANSACTIONAL = 1;

/** PostgreSQL's epoch, 2000-01-01, in milliseconds since 1970. */
export const PG_EPOCH_MS = 946_684_800_000;

/** @throws RangeError on a truncated message. */
export function decodePgOutput(data: Buffer): PgOutput | undefined {
  switch (data[0]) {
    case BEGIN:
      return {
        kind: 'begin',
        commitLsn: data.readBigUInt64BE(1),
        time: PG_EPOCH_MS + Math.floor(Number(data.readBigInt64BE(9)) / 1000),
        xid32: data.readUInt32BE(17),
      };
    case COMMIT:
      return { kind: 'commit', commitLsn: data.readBigUInt64BE(2), endLsn: data.readBigUInt64BE(10) };
    case MESSAGE:
      return decodeMessage(data);
    default:
      return undefined;
  }
}

function decodeMessage(data: Buffer): PgOutput {
  const flags = data.readUInt8(1);
  const prefixStart = 10;
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
