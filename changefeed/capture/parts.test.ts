import type pg from 'pg';
import { expect, test } from 'vitest';
import { Parts } from './parts.ts';

let now = 0;
let snapshot = '100:100:';
const asked: string[] = [];
const client = {
  query: async () => {
    asked.push(snapshot);
    return { rows: [{ snapshot, lsn: '0/100' }] };
  },
} as unknown as pg.Client;

test('parts come again when what could not come in parts is over and confirmed', async () => {
  const parts = new Parts(() => now);
  expect(parts.allowed).toBe(true);
  parts.forbid([]);
  expect(parts.allowed).toBe(true);
  parts.forbid([7, 9]);
  expect(parts.allowed).toBe(false);
  // Not at once, whatever became of them.
  expect(await parts.allowAgain(client, 0x1000n)).toBe(false);
  expect(asked).toEqual([]);
  now += 5_000;
  snapshot = '9:12:9,10';
  expect(await parts.allowAgain(client, 0x1000n)).toBe(false);
  snapshot = '10:12:10';
  expect(await parts.allowAgain(client, 0xffn)).toBe(false);
  expect(await parts.allowAgain(client, 0x100n)).toBe(true);
  expect(parts.allowed).toBe(true);
  expect(await parts.allowAgain(client, 0x100n)).toBe(false);
});

test('the times without parts double while that happens often, up to five minutes', async () => {
  const parts = new Parts(() => now);
  snapshot = '100:100:';
  const times: number[] = [];
  for (let n = 0; n < 10; n++) {
    now += n === 9 ? 400_000 : 1_000;
    parts.forbid([n]);
    const start = now;
    while (!(await parts.allowAgain(client, 0x100n))) now += 1_000;
    times.push((now - start) / 1000);
  }
  expect(times).toEqual([4, 8, 16, 32, 64, 128, 256, 300, 300, 4]);
});
