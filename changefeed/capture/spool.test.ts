import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Spool, SpoolRoom } from './spool.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'conger-spool-'));
});

afterEach(() => rm(directory, { recursive: true }));

async function slicesOf(spool: Spool, most: { records: number; bytes: number }) {
  const slices: string[][] = [];
  for await (const slice of spool.slices(most)) {
    slices.push(slice.map(({ index, partitionKey, body }) => `${index} ${partitionKey} ${body}`));
  }
  return slices;
}

test('what was added comes back as it was, in order and in bounded slices, however large or small', async () => {
  const room = new SpoolRoom({ directory });
  const spool = room.spool();
  const added: string[] = [];
  for (let n = 0; n < 3_000; n++) {
    const body = n % 700 === 0 ? `${n}${'ß'.repeat(200_000)}` : n % 3 === 0 ? '' : `{"n":${n}}`;
    const partitionKey = n % 5 === 0 ? '' : `ü${n}`;
    expect(spool.add({ index: n * 2, partitionKey, body: Buffer.from(body) })).toBe(true);
    added.push(`${n * 2} ${partitionKey} ${body}`);
  }
  expect(spool.count).toBe(3_000);
  const slices = await slicesOf(spool, { records: 100, bytes: 300_000 });
  expect(slices.flat()).toEqual(added);
  expect(Math.max(...slices.map((slice) => slice.length))).toBe(100);
  expect(await slicesOf(spool, { records: 2_000, bytes: 1e9 })).toHaveLength(2);
  room.close();
});

/** Adds changes of 300 KB until there is no room; answers how many there was room for. */
function fill(spool: Spool): number {
  for (let index = 0; ; index++) {
    if (!spool.add({ index, partitionKey: '', body: Buffer.alloc(300_000, index) })) return index;
  }
}

test('its file has no name, and a spool that ends gives its room back', async () => {
  const room = new SpoolRoom({ directory, limit: 10_000_000 });
  const [a, b] = [room.spool(), room.spool()];
  const most = fill(a);
  expect(await readdir(directory)).toEqual([]);
  expect(most * 300_000).toBeGreaterThan(10_000_000);
  expect(fill(b)).toBeLessThan(10);
  a.close();
  a.close();
  b.close();
  expect(fill(room.spool())).toBe(most);
  expect(room.size).toBe(1);
  room.close();
  expect(room.size).toBe(0);
});

test('what has no room is not taken, and nothing behind it; what was taken is there', async () => {
  for (const [room, why] of [
    [new SpoolRoom({ directory, limit: 1_000_000 }), /CONGER_CAPTURE_SPOOL_MB/],
    [new SpoolRoom({ directory, limit: 0 }), /CONGER_CAPTURE_SPOOL_MB/],
    [new SpoolRoom({ directory: join(directory, 'no') }), /CONGER_CAPTURE_SPOOL.*ENOENT.*no/],
  ] as const) {
    const spool = room.spool();
    const taken = fill(spool);
    expect(taken * 300_000).toBeGreaterThan(2_000_000);
    expect(spool.count).toBe(taken);
    expect(spool.full).toMatch(why);
    expect(spool.add({ index: 99, partitionKey: '', body: Buffer.alloc(0) })).toBe(false);
    const there: number[] = [];
    for await (const slice of spool.slices({ records: 4, bytes: 1e9 })) {
      there.push(...slice.map(({ index, body }) => (body[299_999] === index ? index : -1)));
    }
    expect(there).toEqual(Array.from({ length: taken }, (_, index) => index));
    room.close();
  }
});
