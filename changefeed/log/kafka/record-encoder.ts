import { createRequire } from 'node:module';

/** A record of a batch as kafkajs gives it to its encoder; `timestampDelta` in milliseconds. */
export interface RecordFields {
  readonly offsetDelta?: number;
  readonly timestampDelta?: number;
  readonly key?: string | Buffer | null;
  readonly value: string | Buffer | null;
  readonly headers?: Readonly<Record<string, unknown>>;
}

/** What kafkajs takes for an encoder that has written. */
interface Encoded {
  readonly buf: Buffer;
  readonly buffer: Buffer;
}

type EncodeRecord = (record: RecordFields) => Encoded;

const require = createRequire(import.meta.url);
const path = require.resolve('kafkajs/src/protocol/recordBatch/record/v0/index.js');

/** kafkajs 2.2.4's own: some eight buffers of half a kilobyte and more for a record with five headers. */
export const kafkajsRecord: EncodeRecord = require(path);

/** A record in Kafka's format v2, byte for byte as kafkajs has it, in one buffer. */
export function encodeRecord(record: RecordFields): Encoded {
  const { offsetDelta = 0, timestampDelta = 0, key = null, value, headers = {} } = record;
  const entries = Object.entries(headers);
  let size = 1 + sizeOfInt(timestampDelta) + sizeOfInt(offsetDelta) + sizeOfBytes(key) + sizeOfBytes(value);
  size += sizeOfInt(entries.length);
  for (const [name, text] of entries) {
    if (typeof text !== 'string' && !Buffer.isBuffer(text)) return kafkajsRecord(record);
    size += sizeOfBytes(name) + sizeOfBytes(text);
  }
  const buffer = Buffer.allocUnsafe(sizeOfInt(size) + size);
  let at = putInt(buffer, 0, size);
  buffer[at++] = 0;
  at = putInt(buffer, at, timestampDelta);
  at = putInt(buffer, at, offsetDelta);
  at = putBytes(buffer, at, key);
  at = putBytes(buffer, at, value);
  at = putInt(buffer, at, entries.length);
  for (const [name, text] of entries)
    at = putBytes(buffer, putBytes(buffer, at, name), text as string | Buffer);
  return { buf: buffer, buffer };
}

/** Has kafkajs encode with `encodeRecord`: it looks its encoder up when it first sends records. */
export function replaceRecordEncoder(): void {
  const module = require.cache[path];
  if (module !== undefined) module.exports = encodeRecord;
}

/** Zigzag, so that small numbers of either sign are short. Exact up to 2^52. */
function zigzag(n: number): number {
  return n < 0 ? -2 * n - 1 : 2 * n;
}

function sizeOfInt(n: number): number {
  let bytes = 1;
  for (let rest = zigzag(n); rest >= 128; rest = Math.floor(rest / 128)) bytes++;
  return bytes;
}

function putInt(to: Buffer, offset: number, n: number): number {
  let at = offset;
  let rest = zigzag(n);
  for (; rest >= 128; rest = Math.floor(rest / 128)) to[at++] = (rest % 128) + 128;
  to[at++] = rest;
  return at;
}

function sizeOfBytes(bytes: string | Buffer | null): number {
  if (bytes === null) return sizeOfInt(-1);
  const length = Buffer.byteLength(bytes);
  return sizeOfInt(length) + length;
}

function putBytes(to: Buffer, offset: number, bytes: string | Buffer | null): number {
  if (bytes === null) return putInt(to, offset, -1);
  if (typeof bytes !== 'string') {
    const at = putInt(to, offset, bytes.length);
    return at + bytes.copy(to, at);
  }
  const at = putInt(to, offset, Buffer.byteLength(bytes));
  return at + to.write(bytes, at);
}
