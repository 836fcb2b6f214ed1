import { PG_EPOCH_MS } from './pgoutput.ts';

/** The messages inside a replication stream's CopyData: WAL data and keepalives from the server, status from us. */
export type WalMessage =
  | { readonly kind: 'data'; readonly payload: Buffer }
  | {
      readonly kind: 'keepalive';
      /** The server has sent us everything that was committed before this LSN. */
      readonly walEnd: bigint;
      readonly replyRequested: boolean;
    };

const XLOG_DATA = 0x77;
const KEEPALIVE = 0x6b;
const STATUS = 0x72;
const COPY_DATA = 0x64;
const XLOG_DATA_HEADER = 25;

/** @throws RangeError on a truncated or unknown message. */
export function decodeWalMessage(chunk: Buffer): WalMessage {
  switch (chunk[0]) {
    case XLOG_DATA:
      if (chunk.length < XLOG_DATA_HEADER) throw new RangeError('truncated WAL data message');
      return { kind: 'data', payload: chunk.subarray(XLOG_DATA_HEADER) };
    case KEEPALIVE:
      return {
        kind: 'keepalive',
        walEnd: chunk.readBigUInt64BE(1),
        replyRequested: chunk.readUInt8(17) !== 0,
      };
    default:
      throw new RangeError(`unknown replication message 0x${chunk[0]?.toString(16) ?? ''}`);
  }
}

/**
 * A standby status update, framed as CopyData: everything before `lsn` is durable on our side, so the server may
 * forget it. `now` is in milliseconds since 1970.
 */
export function encodeStatus(lsn: bigint, now: number): Buffer {
  const frame = Buffer.alloc(5 + 34);
  frame.writeUInt8(COPY_DATA, 0);
  frame.writeUInt32BE(frame.length - 1, 1);
  frame.writeUInt8(STATUS, 5);
  frame.writeBigUInt64BE(lsn, 6);
  frame.writeBigUInt64BE(lsn, 14);
  frame.writeBigUInt64BE(lsn, 22);
  frame.writeBigInt64BE(BigInt(Math.floor(now - PG_EPOCH_MS)) * 1000n, 30);
  return frame;
}
