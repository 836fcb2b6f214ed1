import { createRequire } from 'node:module';
import { describe, expect, test } from 'vitest';
import { random } from '../../changefeed/testing/random.ts';
import {
  encodeMessage,
  FastDecoder,
  type FastMessage,
  FastProtocolError,
  type FastVersion,
  status,
} from './codec.ts';
import { crcArc, crcLegacy, crcLegacyAscii } from './crc.ts';

const require = createRequire(import.meta.url);
const limit = 1024 * 1024;
const versions: FastVersion[] = [1, 2];
const texts = ['', 'a', '{"m":{"name":"ping"}}', 'größe – 日本語 𝄞', '\u0000\u00ff\u0100\uffff'];

describe('checksums are those of the libraries that peers use', () => {
  const legacy: { crc16(text: string): number } = require('oldcrc');
  const current: { crc16(text: string): number } = require('crc');

  test.each(texts)('%j', (text) => {
    const bytes = Buffer.from(text);
    expect(crcLegacy(text)).toBe(legacy.crc16(text));
    expect(crcArc(bytes, 0, bytes.length)).toBe(current.crc16(text));
  });

  test('of every length, wherever it lies', () => {
    const next = random(4);
    const bytes = Buffer.from(Array.from({ length: 200 }, () => Math.floor(next() * 128)));
    for (let from = 0; from < 20; from++) {
      for (let to = from; to <= bytes.length; to++) {
        const text = bytes.toString('latin1', from, to);
        expect(crcArc(bytes, from, to)).toBe(current.crc16(text));
        expect(crcLegacyAscii(bytes, from, to)).toBe(legacy.crc16(text));
        expect(crcLegacy(text)).toBe(legacy.crc16(text));
      }
    }
  });
});

function decodeAll(chunks: Iterable<Buffer>): FastMessage[] {
  const decoder = new FastDecoder(limit);
  const messages: FastMessage[] = [];
  for (const chunk of chunks) {
    decoder.push(chunk);
    for (let m = decoder.next(); m !== undefined; m = decoder.next()) messages.push(m);
  }
  decoder.end();
  return messages;
}

describe.each(versions)('version %i', (version) => {
  const stream = Buffer.concat([
    encodeMessage(version, status.data, 1, 'putObject', ['bucket', 'ключ', { deep: [1, null, 'x'] }]),
    encodeMessage(version, status.end, 2 ** 31 - 1, 'ping', []),
    encodeMessage(version, status.error, 0, undefined, {
      name: 'EtagConflictError',
      message: 'no',
      context: { a: 1 },
    }),
  ]);
  const expected = [
    { version, status: 1, msgid: 1, name: 'putObject', values: ['bucket', 'ключ', { deep: [1, null, 'x'] }] },
    { version, status: 2, msgid: 2 ** 31 - 1, name: 'ping', values: [] },
    {
      version,
      status: 3,
      msgid: 0,
      name: undefined,
      error: { name: 'EtagConflictError', message: 'no', context: { a: 1 } },
    },
  ];

  test('reads the same from every cut in two', () => {
    for (let cut = 0; cut <= stream.length; cut++) {
      expect(decodeAll([stream.subarray(0, cut), stream.subarray(cut)])).toEqual(expected);
    }
  });

  test('reads the same byte by byte, and in chunks of every size', () => {
    for (let size = 1; size < 70; size++) {
      const chunks: Buffer[] = [];
      for (let at = 0; at < stream.length; at += size) chunks.push(stream.subarray(at, at + size));
      expect(decodeAll(chunks)).toEqual(expected);
    }
  });

  test('what node-fast encodes is read, and the other way round', async () => {
    const protocol = require('fast/lib/fast_protocol.js');
    const data = { m: { uts: 1, name: 'getObject' }, d: ['größe', { a: '𝄞' }] };
    const theirs: Buffer = protocol.fastMessageEncode({ msgid: 7, status: 1, data, version });
    expect(decodeAll([theirs])).toEqual([
      { version, status: 1, msgid: 7, name: 'getObject', values: data.d },
    ]);

    const decoder = new protocol.FastMessageDecoder();
    const read = new Promise((resolve, reject) => decoder.once('data', resolve).once('error', reject));
    decoder.write(encodeMessage(version, status.data, 7, 'getObject', data.d));
    expect(await read).toMatchObject({ msgid: 7, status: 1, version, data: { d: data.d } });
  });

  test('a flipped bit in the payload is a bad checksum', () => {
    for (let at = 15; at < 60; at++) {
      const bad = Buffer.from(stream);
      bad[at] = (bad[at] ?? 0) ^ 0x04;
      expect(fault(bad)).toMatch(/bad_crc|invalid_json/);
    }
  });
});

function fault(bytes: Buffer): string {
  try {
    decodeAll([bytes]);
  } catch (error) {
    if (error instanceof FastProtocolError) return error.reason;
    throw error;
  }
  return 'none';
}

function frame(payload: string | Buffer, messageStatus: number = status.data): Buffer {
  const body = Buffer.from(payload);
  const head = Buffer.alloc(15);
  head[0] = 2;
  head[1] = 1;
  head[2] = messageStatus;
  head.writeUInt32BE(1, 3);
  head.writeUInt32BE(crcArc(body, 0, body.length), 7);
  head.writeUInt32BE(body.length, 11);
  return Buffer.concat([head, body]);
}

function changed(at: number, value: number): Buffer {
  const bytes = frame('{"m":{"name":"x"},"d":[]}');
  bytes[at] = value;
  return bytes;
}

describe('faults', () => {
  test.each<[string, Buffer]>([
    ['unsupported_version', changed(0, 3)],
    ['unsupported_type', changed(1, 2)],
    ['unsupported_status', changed(2, 4)],
    ['invalid_msgid', changed(3, 0x80)],
    ['too_long', changed(11, 0xff)],
    ['bad_crc', changed(10, 1)],
    ['invalid_json', frame('{"m":')],
    ['invalid_json', frame(Buffer.from([0x22, 0xff, 0x22]))],
    ['bad_data', frame('null')],
    ['bad_data', frame('"text"')],
    ['bad_data_d', frame('{"m":{"name":"x"}}')],
    ['bad_data_d', frame('{"m":{"name":"x"},"d":{}}', status.end)],
    ['bad_error', frame('{"m":{"name":"x"},"d":{"name":"E"}}', status.error)],
    ['incomplete_message', frame('{"m":{"name":"x"},"d":[]}').subarray(0, 20)],
    ['incomplete_message', frame('{"m":{"name":"x"},"d":[]}').subarray(0, 15)],
  ])('%s', (reason, bytes) => {
    expect(fault(bytes)).toBe(reason);
  });

  test('messages before the fault are read, nothing after it', () => {
    const decoder = new FastDecoder(limit);
    decoder.push(Buffer.concat([frame('{"d":[1]}'), changed(0, 9), frame('{"d":[2]}')]));
    expect(decoder.next()).toMatchObject({ values: [1] });
    expect(() => decoder.next()).toThrow('unsupported version');
    decoder.push(frame('{"d":[3]}'));
    expect(() => decoder.next()).toThrow('unsupported version');
  });

  test('a giant length is refused before its payload comes', () => {
    const decoder = new FastDecoder(100);
    decoder.push(frame(`{"d":["${'x'.repeat(200)}"]}`).subarray(0, 15));
    expect(() => decoder.next()).toThrow('at most 100');
  });
});

describe('messages that are too long', () => {
  const long = (msgid: number, bytes: number) =>
    encodeMessage(2, status.data, msgid, 'x', ['y'.repeat(bytes)]);
  const stream = Buffer.concat([
    encodeMessage(2, status.data, 1, 'x', [1]),
    long(2, 5000),
    encodeMessage(2, status.data, 3, 'x', [3]),
    long(4, 101),
    long(5, 5000),
  ]);

  test('are skipped and reported, in chunks of every size; what stands between them is read', () => {
    for (const size of [1, 2, 14, 15, 16, 99, 1000, 5000, stream.length]) {
      const seen: unknown[] = [];
      const decoder = new FastDecoder(100, { upTo: 10_000, report: ({ msgid }) => seen.push(msgid) });
      for (let at = 0; at < stream.length; at += size) {
        decoder.push(stream.subarray(at, at + size));
        for (let m = decoder.next(); m !== undefined; m = decoder.next()) seen.push(m);
      }
      decoder.end();
      const frame = { version: 2, status: 1, name: 'x' };
      expect(seen).toEqual([
        { ...frame, msgid: 1, values: [1] },
        2,
        { ...frame, msgid: 3, values: [3] },
        4,
        5,
      ]);
    }
  });

  test('are incomplete where the bytes end inside one', () => {
    const decoder = new FastDecoder(100, { upTo: 10_000, report: () => {} });
    decoder.push(stream.subarray(0, stream.length - 1));
    while (decoder.next() !== undefined);
    expect(() => decoder.end()).toThrow('incomplete message');
  });

  test('are a fault past what is skipped', () => {
    const decoder = new FastDecoder(100, { upTo: 1000, report: () => {} });
    decoder.push(long(1, 1000).subarray(0, 15));
    expect(() => decoder.next()).toThrow('at most 1000');
  });
});

test('whatever is done to the bytes, there are messages or a protocol error', () => {
  const next = random(20260114);
  const pick = (n: number) => Math.floor(next() * n);
  const outcomes = new Map<string, number>();
  for (let round = 0; round < 5000; round++) {
    const parts = Array.from({ length: 1 + pick(3) }, (_, i) =>
      encodeMessage(next() < 0.5 ? 1 : 2, status.data, i, 'x', ['y'.repeat(pick(50)), pick(1000)]),
    );
    let bytes = Buffer.concat(parts);
    for (let i = pick(4); i > 0; i--) bytes[pick(bytes.length)] = pick(256);
    if (next() < 0.2) bytes = bytes.subarray(0, pick(bytes.length));
    const chunks: Buffer[] = [];
    for (let at = 0; at < bytes.length; ) {
      const size = 1 + pick(40);
      chunks.push(bytes.subarray(at, at + size));
      at += size;
    }
    let outcome = 'read';
    try {
      decodeAll(chunks);
    } catch (error) {
      if (!(error instanceof FastProtocolError)) throw error;
      outcome = error.reason;
    }
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  }
  expect(outcomes.get('read')).toBeGreaterThan(500);
  expect(outcomes.get('bad_crc')).toBeGreaterThan(500);
  expect(outcomes.size).toBeGreaterThan(6);
});
