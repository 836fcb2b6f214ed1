import type pg from 'pg';
import { expect, test } from 'vitest';
import { Visibility } from './visibility.ts';

const { signal } = new AbortController();

let now = 0;
let snapshot: string;
let asked = 0;
const client = {
  query: async () => {
    asked++;
    return { rows: [{ snapshot }] };
  },
} as unknown as pg.Client;

test('a snapshot is asked for where the last one does not show a transaction', async () => {
  const visibility = new Visibility(client, () => now);
  snapshot = '100:110:105';
  expect(await visibility.wait([99, 108], signal)).toEqual([99n, 108n]);
  expect(await visibility.wait([107], signal)).toEqual([107n]);
  expect(asked).toBe(1);
  snapshot = '120:120:';
  expect(await visibility.wait([105, 119], signal)).toEqual([105n, 119n]);
  expect(asked).toBe(2);
});

test('an id that has come round since the last change is not taken for the one before', async () => {
  const visibility = new Visibility(client, () => now);
  snapshot = '4000000000:4000000000:';
  expect(await visibility.wait([3_999_999_999], signal)).toEqual([3_999_999_999n]);
  now += 3_600_000;
  // More than 2^31 transactions later, of which none was captured.
  const xid = 2n ** 32n + 3_000_000_000n;
  snapshot = `${xid + 1n}:${xid + 1n}:`;
  expect(await visibility.wait([3_000_000_000], signal)).toEqual([xid]);
});
