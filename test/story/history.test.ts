import { expect, test } from 'vitest';
import { violations } from './history.ts';
import type { Seen } from './listener.ts';

const change = (partition: number, n: number): Seen => ({
  partition,
  position: `p${n}`,
  type: 'put',
  key: `k${n}`,
  etag: `${n}`,
});
const expected = [
  [change(0, 1), change(0, 2), change(0, 3)],
  [change(1, 4), change(1, 5)],
];
const all = expected.flat();

test('what is whole and in order passes, however the partitions mingle', () => {
  expect(violations(expected, all)).toEqual([]);
  expect(
    violations(expected, [change(1, 4), change(0, 1), change(0, 2), change(1, 5), change(0, 3)]),
  ).toEqual([]);
});

test.each([
  ['missing in the middle', [change(0, 1), change(0, 3), change(1, 4), change(1, 5)]],
  ['missing at the end', all.slice(0, -1)],
  ['twice', [change(0, 1), change(0, 1), change(0, 2), change(0, 3), change(1, 4), change(1, 5)]],
  ['out of order', [change(0, 2), change(0, 1), change(0, 3), change(1, 4), change(1, 5)]],
  ['not in the log', [...all, change(1, 6)]],
  ['with another etag', [...all.slice(0, -1), { ...change(1, 5), etag: 'other' }]],
  ['refused', [...all, { ...change(-1, 0), position: 'gone' }]],
])('a change that is %s is found', (_name, seen) => {
  expect(violations(expected, seen)).not.toEqual([]);
});
