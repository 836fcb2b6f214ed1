import { expect, test } from 'vitest';
import { extendXid, isVisible, parseSnapshot } from './snapshot.ts';

test('a transaction is visible below xmin, and below xmax unless it was running', () => {
  const snapshot = parseSnapshot('10:20:10,14,15');
  expect([9n, 11n, 13n, 16n, 19n].map((x) => isVisible(x, snapshot))).toEqual([true, true, true, true, true]);
  expect([10n, 14n, 15n, 20n, 21n].map((x) => isVisible(x, snapshot))).toEqual([
    false,
    false,
    false,
    false,
    false,
  ]);
  expect(isVisible('19', parseSnapshot('20:20:'))).toBe(true);
  expect(isVisible('20', parseSnapshot('20:20:'))).toBe(false);
});

test('ids of 64 bits keep their precision', () => {
  const big = (1n << 63n) + 1n;
  const snapshot = parseSnapshot(`${big}:${big + 2n}:${big}`);
  expect(isVisible(big, snapshot)).toBe(false);
  expect(isVisible(big + 1n, snapshot)).toBe(true);
});

test('anything else is refused', () => {
  for (const bad of ['', '1:2', '1:2:3,', '1:2:,3', 'a:b:', '1:2:3 ', '-1:2:']) {
    expect(() => parseSnapshot(bad)).toThrow(RangeError);
  }
});

test('a 32-bit id is extended to the one nearest to xmax, over either side of the wrap', () => {
  const at = (xmax: bigint) => ({ xmin: xmax, xmax, running: new Set<bigint>() });
  const wrap = 1n << 32n;
  expect(extendXid(700, at(750n))).toBe(700n);
  expect(extendXid(760, at(750n))).toBe(760n);
  expect(extendXid(0xffff_fff0, at(wrap + 5n))).toBe(wrap - 16n);
  expect(extendXid(3, at(wrap - 2n))).toBe(wrap + 3n);
  expect(extendXid(3, at(5n * wrap + 9n))).toBe(5n * wrap + 3n);
});
