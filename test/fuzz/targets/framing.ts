import assert from 'node:assert/strict';
import {
  encodeMessage,
  FastDecoder,
  type FastMessage,
  FastProtocolError,
  type Oversized,
  status,
} from '../../../kvstore/fast/codec.ts';
import { crcArc, crcLegacy } from '../../../kvstore/fast/crc.ts';
import { Random } from '../../random.ts';
import type { Target } from '../target.ts';

export const headerSize = 15;
const limit = 8 * 1024;
const skipLimit = 64;

export const framingWords = [
  ...[
    '{"m":{"uts":1,"name":"echo"},"d":[]}',
    '"m":{',
    '"name":"echo"',
    '"d":[',
    '"d":{}',
    'null',
    '{}',
    '[]',
  ],
  ...[
    '\u0001\u0001\u0001',
    '\u0002\u0001\u0001',
    '\u0002\u0001\u0002',
    '\u0002\u0001\u0003',
    '\\u0000',
    '\\ud800',
  ],
  ...['"__proto__":', '1e999', '-0', '𝄞'],
];

/** Messages as clients send them, of both versions and all statuses. */
export function generateStream(random: Random, names: readonly string[]): Buffer {
  const parts = Array.from({ length: 1 + random.below(4) }, (_, i) => {
    const version = random.pick([1, 2] as const);
    const msgid = random.pick([i, i, i, random.below(4), 2 ** 31 - 1]);
    const values = Array.from({ length: random.below(4) }, () =>
      random.pick<unknown>([null, random.below(1e9), 'x'.repeat(random.below(300)), 'größe 𝄞', { a: [{}] }]),
    );
    const name = random.below(10) === 0 ? undefined : random.pick(names);
    if (random.below(10) > 0) return encodeMessage(version, status.data, msgid, name, values);
    if (random.below(2) > 0) return encodeMessage(version, status.end, msgid, name, values);
    return encodeMessage(version, status.error, msgid, name, { name: 'Error', message: 'no' });
  });
  return Buffer.concat(parts);
}

/** Gives every message the length and the checksum that its payload has. */
export function mendFrames(_random: Random, input: Buffer): Buffer {
  const bytes = Buffer.from(input);
  for (let at = 0; at + headerSize <= bytes.length; ) {
    const left = bytes.length - at - headerSize;
    const length = Math.min(bytes.readUInt32BE(at + 11), left);
    const payload = bytes.subarray(at + headerSize, at + headerSize + length);
    bytes.writeUInt32BE(length, at + 11);
    bytes.writeUInt32BE(bytes[at] === 1 ? crcLegacy(payload.toString()) : crcArc(payload, 0, length), at + 7);
    at += headerSize + length;
  }
  return bytes;
}

/** The input in pieces that follow from it. */
export function cut(input: Buffer): Buffer[] {
  const random = new Random(crcArc(input, 0, input.length));
  const most = random.pick([1, 3, 16, 40, 1000]);
  const chunks: Buffer[] = [];
  for (let at = 0; at < input.length; ) {
    const size = 1 + random.below(most);
    chunks.push(input.subarray(at, at + size));
    at += size;
  }
  return chunks;
}

interface Decoded {
  readonly messages: readonly FastMessage[];
  readonly fault: string | undefined;
}

function decode(chunks: readonly Buffer[]): Decoded {
  const stream = Buffer.concat(chunks);
  const decoder = new FastDecoder(limit);
  const messages: FastMessage[] = [];
  let pushed = 0;
  let read = 0;
  try {
    for (const chunk of chunks) {
      decoder.push(chunk);
      pushed += chunk.length;
      for (let m = decoder.next(); m !== undefined; m = decoder.next()) {
        messages.push(m);
        read += headerSize + stream.readUInt32BE(read + 11);
        assert(read <= pushed, 'a message was read before all of it had come');
      }
      assert(pushed - read < headerSize + limit, `${pushed - read} bytes are held for one message`);
    }
    decoder.end();
  } catch (error) {
    if (!(error instanceof FastProtocolError)) throw error;
    // A decoder that failed says so again, whatever comes.
    decoder.push(Buffer.alloc(64));
    if (error.reason !== 'incomplete_message') assert.throws(() => decoder.next(), error);
    return { messages, fault: error.reason };
  }
  return { messages, fault: undefined };
}

/** What is read where messages that are too long are skipped. */
function decodeSkipping(chunks: readonly Buffer[]): unknown[] {
  const events: unknown[] = [];
  const report = (message: Oversized) => events.push({ ...message });
  const decoder = new FastDecoder(skipLimit, { upTo: limit, report });
  try {
    for (const chunk of chunks) {
      decoder.push(chunk);
      for (let m = decoder.next(); m !== undefined; m = decoder.next()) events.push(m);
    }
    decoder.end();
  } catch (error) {
    if (!(error instanceof FastProtocolError)) throw error;
    events.push(error.reason);
  }
  return events;
}

/** Bytes to messages: any bytes, cut in any way. */
export const framing: Target = {
  name: 'framing',
  notation: 'hex',
  modules: /\/kvstore\/fast\/(codec|crc)\./,
  words: framingWords,
  generate: (random) => generateStream(random, ['echo', 'putObject', '']),
  mend: mendFrames,
  run(input) {
    const decoded = decode(cut(input));
    assert.deepEqual(decode([input]), decoded, 'what is read depends on the cuts');
    const skipped = decodeSkipping([input]);
    assert.deepEqual(decodeSkipping(cut(input)), skipped, 'what is skipped depends on the cuts');
    for (const message of decoded.messages) {
      const { version, msgid, name } = message;
      const d = message.status === status.error ? message.error : message.values;
      const again = decode([encodeMessage(version, message.status, msgid, name, d)]);
      // JSON has no -0 and nothing beyond the greatest double.
      assert.equal(JSON.stringify(again.messages), JSON.stringify([message]));
    }
  },
  close: async () => {},
};
