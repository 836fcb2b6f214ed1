import { describe, expect, test } from 'vitest';
import { decodePgOutput, PG_EPOCH_MS } from './pgoutput.ts';
import { decodeWalMessage, encodeStatus } from './walmessages.ts';

function message(flags: number, prefix: string, content: string): Buffer {
  const head = Buffer.alloc(10);
  head.write('M');
  head.writeUInt8(flags, 1);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(Buffer.byteLength(content));
  return Buffer.concat([head, Buffer.from(`${prefix}\0`), length, Buffer.from(content)]);
}

describe('pgoutput', () => {
  test('begin and commit', () => {
    const begin = Buffer.alloc(21);
    begin.write('B');
    begin.writeBigUInt64BE(0xffff_ffff_ffff_fffen, 1);
    begin.writeBigInt64BE(1_500n, 9);
    begin.writeUInt32BE(0xffff_fff0, 17);
    expect(decodePgOutput(begin)).toEqual({
      kind: 'begin',
      commitLsn: 0xffff_ffff_ffff_fffen,
      time: PG_EPOCH_MS + 1,
      xid32: 0xffff_fff0,
    });
    const commit = Buffer.alloc(26);
    commit.write('C');
    commit.writeBigUInt64BE(7n, 2);
    commit.writeBigUInt64BE(9n, 10);
    expect(decodePgOutput(commit)).toEqual({ kind: 'commit', commitLsn: 7n, endLsn: 9n });
    expect(() => decodePgOutput(begin.subarray(0, 20))).toThrow(RangeError);
  });

  test('transactions in progress: parts, their commits and what is rolled back', () => {
    const start = Buffer.from('53000002f401', 'hex');
    expect(decodePgOutput(start)).toEqual({ kind: 'stream-start', xid32: 0x2f4 });
    expect(decodePgOutput(Buffer.from('E'))).toEqual({ kind: 'stream-stop' });
    const abort = Buffer.from('41000002f4000002f5', 'hex');
    expect(decodePgOutput(abort)).toEqual({ kind: 'stream-abort', xid32: 0x2f4, subxid32: 0x2f5 });
    const commit = Buffer.alloc(30);
    commit.write('c');
    commit.writeUInt32BE(0x2f4, 1);
    commit.writeBigUInt64BE(7n, 6);
    commit.writeBigUInt64BE(9n, 14);
    commit.writeBigInt64BE(1_500n, 22);
    expect(decodePgOutput(commit)).toEqual({
      ...{ kind: 'stream-commit', xid32: 0x2f4, commitLsn: 7n, endLsn: 9n },
      time: PG_EPOCH_MS + 1,
    });
    for (const whole of [start, abort, commit]) {
      const short = whole.subarray(0, whole.length - 2);
      expect(() => decodePgOutput(short)).toThrow(RangeError);
    }
    const inside = message(1, 'conger/k', '{}');
    const streamed = Buffer.concat([
      inside.subarray(0, 1),
      Buffer.from('000002f4', 'hex'),
      inside.subarray(1),
    ]);
    expect(decodePgOutput(streamed, true)).toEqual(decodePgOutput(inside));
  });

  test('messages, with any text in prefix and content', () => {
    for (const [prefix, content] of [
      ['conger/ä/b', '{"x":"\0"}'],
      ['', ''],
    ] as const) {
      expect(decodePgOutput(message(1, prefix, content))).toEqual({
        kind: 'message',
        transactional: true,
        prefix,
        content: Buffer.from(content),
      });
    }
    expect(decodePgOutput(message(0, 'p', 'c'))).toMatchObject({ transactional: false });
  });

  test('a truncated message is refused wherever it ends', () => {
    const whole = message(1, 'conger/k', '{"n":1}');
    for (let length = 1; length < whole.length; length++) {
      expect(() => decodePgOutput(whole.subarray(0, length))).toThrow();
    }
  });

  test('what else the plugin sends is skipped', () => {
    for (const kind of ['R', 'I', 'U', 'D', 'T', 'Y', 'O', 'b', 'p']) {
      expect(decodePgOutput(Buffer.from(`${kind}rest`))).toBeUndefined();
    }
    expect(decodePgOutput(Buffer.alloc(0))).toBeUndefined();
  });
});

describe('the replication protocol', () => {
  test('WAL data and keepalives', () => {
    const data = Buffer.concat([Buffer.from('w'), Buffer.alloc(24), Buffer.from('payload')]);
    expect(decodeWalMessage(data)).toEqual({ kind: 'data', payload: Buffer.from('payload') });
    const keepalive = Buffer.alloc(18);
    keepalive.write('k');
    keepalive.writeBigUInt64BE(77n, 1);
    keepalive[17] = 1;
    expect(decodeWalMessage(keepalive)).toEqual({ kind: 'keepalive', walEnd: 77n, replyRequested: true });
    expect(() => decodeWalMessage(keepalive.subarray(0, 17))).toThrow(RangeError);
    expect(() => decodeWalMessage(data.subarray(0, 24))).toThrow(RangeError);
    expect(() => decodeWalMessage(Buffer.from('?'))).toThrow(RangeError);
    expect(() => decodeWalMessage(Buffer.alloc(0))).toThrow(RangeError);
  });

  test('a status says the same LSN three times: written, flushed, applied', () => {
    const frame = encodeStatus(0x1_0000_0002n, PG_EPOCH_MS + 5);
    expect(frame.toString('latin1', 0, 1)).toBe('d');
    expect(frame.readUInt32BE(1)).toBe(frame.length - 1);
    expect(frame.toString('latin1', 5, 6)).toBe('r');
    expect([6, 14, 22].map((at) => frame.readBigUInt64BE(at))).toEqual(Array(3).fill(0x1_0000_0002n));
    expect(frame.readBigInt64BE(30)).toBe(5_000n);
    expect(frame.readUInt8(38)).toBe(0);
    expect(frame).toHaveLength(39);
  });
});
