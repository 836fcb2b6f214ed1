import { describe, expect, test } from 'vitest';
import {
  bigintToLsn,
  formatPosition,
  isPosition,
  lsnToBigint,
  parsePosition,
  positionsOf,
  START,
} from './position.ts';
import { random } from './testing/random.ts';

describe('positions', () => {
  test('of one transaction are those of its parts', () => {
    const position = positionsOf(3, 0x1a2b3cn);
    for (const index of [0, 1, 0xffff_ffff])
      expect(position(index)).toBe(formatPosition({ epoch: 3, lsn: 0x1a2b3cn, index }));
    expect(() => position(2 ** 32)).toThrow(RangeError);
  });

  const next = random(7);
  const u32 = () => Math.floor(next() * 2 ** (1 + Math.floor(next() * 32)));
  const u64 = () =>
    BigInt(u32()) * BigInt(next() < 0.5 ? 1 : 2 ** 32) + BigInt(next() < 0.5 ? 0 : u32() >>> 1);
  const some = Array.from({ length: 2000 }, () => ({
    epoch: next() < 0.7 ? 1 : u32(),
    lsn: next() < 0.3 ? 0x16b_3748n : u64() & 0xffff_ffff_ffff_ffffn,
    index: u32(),
  }));

  test('come back as they went in', () => {
    for (const parts of some) expect(parsePosition(formatPosition(parts))).toEqual(parts);
  });

  test('compare as strings as their parts compare in order', () => {
    for (let i = 1; i < some.length; i++) {
      const [a, b] = [some[i - 1]!, some[i]!];
      const byParts =
        a.epoch !== b.epoch
          ? a.epoch - b.epoch
          : a.lsn !== b.lsn
            ? a.lsn < b.lsn
              ? -1
              : 1
            : a.index - b.index;
      const [x, y] = [formatPosition(a), formatPosition(b)];
      expect(Math.sign(byParts)).toBe(x < y ? -1 : x > y ? 1 : 0);
      expect(START < x).toBe(true);
    }
  });

  test('are refused where a part does not fit its width', () => {
    for (const bad of [
      { epoch: -1, lsn: 0n, index: 0 },
      { epoch: 0, lsn: -1n, index: 0 },
      { epoch: 0, lsn: 1n << 64n, index: 0 },
      { epoch: 0, lsn: 0n, index: 2 ** 32 },
      { epoch: 1.5, lsn: 0n, index: 0 },
    ]) {
      expect(() => formatPosition(bad)).toThrow(RangeError);
    }
  });

  test('are recognised only in the one form', () => {
    const good = formatPosition({ epoch: 1, lsn: 255n, index: 2 });
    expect(good).toBe('00000001-00000000000000ff-00000002');
    expect(isPosition(good)).toBe(true);
    for (const bad of ['', `${good} `, good.toUpperCase(), good.slice(1), `0${good}`, '1-2-3']) {
      expect(isPosition(bad)).toBe(false);
      expect(() => parsePosition(bad)).toThrow(RangeError);
    }
  });
});

describe('LSNs', () => {
  test('convert both ways', () => {
    expect(lsnToBigint('16/B374D848')).toBe(0x16_b374_d848n);
    for (const lsn of [0n, 1n, 0xffff_ffffn, 1n << 32n, 0xffff_ffff_ffff_ffffn]) {
      expect(lsnToBigint(bigintToLsn(lsn))).toBe(lsn);
    }
    expect(() => lsnToBigint('16B374D848')).toThrow(RangeError);
    expect(() => lsnToBigint('1/123456789')).toThrow(RangeError);
  });
});
