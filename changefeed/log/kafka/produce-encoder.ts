import { createRequire } from 'node:module';
import { crc32c } from './crc32c.ts';

/** A message as kafkajs gives it to its encoder. */
export interface ProducedMessage {
  readonly key?: string | Buffer | null;
  readonly value: string | Buffer | null;
  readonly headers?: Readonly<Record<string, unknown>>;
  /** Milliseconds since 1970, in decimal. */
  readonly timestamp?: string;
}

/** A request as kafkajs' producer makes it. Ids of 64 bits are numbers, decimals or Longs. */
export interface ProduceFields {
  readonly acks: number;
  /** Milliseconds. */
  readonly timeout: number;
  readonly transactionalId?: string | null;
  readonly producerId?: { toString(): string };
  readonly producerEpoch?: number;
  readonly compression?: number;
  readonly topicData: readonly {
    readonly topic: string;
    readonly partitions: readonly {
      readonly partition: number | string;
      readonly firstSequence?: number;
      readonly messages: readonly ProducedMessage[];
    }[];
  }[];
}

/** What kafkajs takes for an encoder that has written. */
interface Encoded {
  readonly buf: Buffer;
  readonly buffer: Buffer;
}

interface ProduceRequest {
  encode(): Promise<Encoded>;
}

type MakeRequest = (fields: ProduceFields) => ProduceRequest;

const require = createRequire(import.meta.url);
const path = require.resolve('kafkajs/src/protocol/requests/produce/v3/request.js');

/** kafkajs 2.2.4's own, which copies every record some ten times. Later versions of the request are made from it. */
export const kafkajsProduce: MakeRequest = require(path);

/** Of a batch before its records, and before what its length and its checksum are of. */
const BATCH_HEADER = 61;
const BATCH_LENGTH_FROM = 12;
const CHECKSUM_FROM = 21;

/** The request, byte for byte as kafkajs has it, in one buffer. What Conger never sends is left to kafkajs. */
export function produceRequest(fields: ProduceFields): ProduceRequest {
  const request = kafkajsProduce(fields);
  return isPlain(fields) ? { ...request, encode: async () => encode(fields) } : request;
}

/** Has kafkajs encode with `produceRequest`: it looks its encoder up when it first sends records. */
export function replaceProduceEncoder(): void {
  const module = require.cache[path];
  if (module !== undefined) module.exports = produceRequest;
}

function isPlain({ transactionalId, compression, topicData }: ProduceFields): boolean {
  const messages = topicData.flatMap(({ partitions }) =>
    partitions.flatMap((partition) => partition.messages),
  );
  return (
    transactionalId == null &&
    !compression &&
    messages.every(({ timestamp, headers }) => timestamp === undefined && hasPlainHeaders(headers))
  );
}

function hasPlainHeaders(headers: ProducedMessage['headers']): boolean {
  for (const name in headers) {
    const value = headers[name];
    if (typeof value !== 'string' && !Buffer.isBuffer(value)) return false;
  }
  return true;
}

function encode({ acks, timeout, producerId = -1, producerEpoch = 0, topicData }: ProduceFields): Encoded {
  const sizes = topicData.map(({ partitions }) =>
    partitions.map(({ messages }) => messages.map(sizeOfRecord)),
  );
  const total = 12 + sum(topicData.map(({ topic }) => 6 + Buffer.byteLength(topic)));
  const buffer = Buffer.allocUnsafe(
    total + sum(sizes.flatMap((topic) => topic.map((records) => 8 + BATCH_HEADER + sizeOfRecords(records)))),
  );
  const id = BigInt(producerId.toString());
  const now = BigInt(Date.now());
  let at = buffer.writeInt16BE(-1, 0);
  at = buffer.writeInt16BE(acks, at);
  at = buffer.writeInt32BE(timeout, at);
  at = buffer.writeInt32BE(topicData.length, at);
  topicData.forEach(({ topic, partitions }, t) => {
    at = buffer.writeInt16BE(Buffer.byteLength(topic), at);
    at += buffer.write(topic, at);
    at = buffer.writeInt32BE(partitions.length, at);
    partitions.forEach(({ partition, firstSequence = 0, messages }, p) => {
      const records = sizes[t]?.[p] ?? [];
      const batch = buffer.writeInt32BE(
        BATCH_HEADER + sizeOfRecords(records),
        buffer.writeInt32BE(Number(partition), at),
      );
      at = batch + BATCH_HEADER;
      messages.forEach((message, n) => {
        at = putRecord(buffer, at, message, n, records[n] ?? 0);
      });
      buffer.fill(0, batch, batch + BATCH_HEADER);
      buffer.writeInt32BE(at - batch - BATCH_LENGTH_FROM, batch + 8);
      buffer[batch + 16] = 2;
      buffer.writeInt32BE(messages.length - 1, batch + 23);
      buffer.writeBigInt64BE(now, batch + 27);
      buffer.writeBigInt64BE(now, batch + 35);
      buffer.writeBigInt64BE(id, batch + 43);
      buffer.writeInt16BE(producerEpoch, batch + 51);
      buffer.writeInt32BE(firstSequence, batch + 53);
      buffer.writeInt32BE(messages.length, batch + 57);
      buffer.writeUInt32BE(crc32c(buffer, batch + CHECKSUM_FROM, at), batch + 17);
    });
  });
  return { buf: buffer, buffer };
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((a, b) => a + b, 0);
}

/** Of records without the lengths before each, what they take with them. */
function sizeOfRecords(sizes: readonly number[]): number {
  let total = 0;
  for (const size of sizes) total += sizeOfInt(size) + size;
  return total;
}

/** What record number `offsetDelta` of a batch takes in format v2, behind its length. */
function sizeOfRecord({ key = null, value, headers }: ProducedMessage, offsetDelta: number): number {
  let count = 0;
  let size = 2 + sizeOfInt(offsetDelta) + sizeOfBytes(key) + sizeOfBytes(value);
  for (const name in headers) {
    count++;
    size += sizeOfBytes(name) + sizeOfBytes(headers[name] as string | Buffer);
  }
  return size + sizeOfInt(count);
}

function putRecord(
  to: Buffer,
  offset: number,
  { key = null, value, headers }: ProducedMessage,
  offsetDelta: number,
  size: number,
): number {
  let at = putInt(to, offset, size);
  // Attributes, and the time since the batch's.
  to[at++] = 0;
  to[at++] = 0;
  at = putInt(to, at, offsetDelta);
  at = putBytes(to, at, key);
  at = putBytes(to, at, value);
  let count = 0;
  for (const _ in headers) count++;
  at = putInt(to, at, count);
  for (const name in headers) {
    at = putBytes(to, at, name);
    at = putBytes(to, at, headers[name] as string | Buffer);
  }
  return at;
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
  const length = typeof bytes === 'string' ? sizeOfText(bytes) : bytes.length;
  return sizeOfInt(length) + length;
}

function putBytes(to: Buffer, offset: number, bytes: string | Buffer | null): number {
  if (bytes === null) return putInt(to, offset, -1);
  if (typeof bytes !== 'string') {
    const at = putInt(to, offset, bytes.length);
    to.set(bytes, at);
    return at + bytes.length;
  }
  const length = sizeOfText(bytes);
  const at = putInt(to, offset, length);
  if (length !== bytes.length || length > SHORT) return at + to.write(bytes, at);
  for (let i = 0; i < length; i++) to[at + i] = bytes.charCodeAt(i);
  return at + length;
}

/** Of texts up to this length Node's own functions take longer to be called than to do it here. */
const SHORT = 64;

function sizeOfText(text: string): number {
  if (text.length > SHORT) return Buffer.byteLength(text);
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 0x7f) return Buffer.byteLength(text);
  return text.length;
}
