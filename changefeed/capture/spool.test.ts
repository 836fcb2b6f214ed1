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
    slices.push(slice.map(({ partitionKey, body }) => `${partitionKey} ${body}`));
  }
  return slices;
}

test('what was added comes back as it was, in order and in bounded slices, however large or small', async () => {
  const room = new SpoolRoom({ directory });
  const spool = room.spool();
  const added: string[] = [];
  for (let n = 0; n < 3_000; n++) {
    const body = n % 700 === 0 ? `${n}${'ß'.repeat(200_000)}` : n % 3 === 0 ? '' : `{"n":${n}}`;
    spool.add({ partitionKey: n % 5 === 0 ? '' : `ü${n}`, body: Buffer.from(body) });
    added.push(`${n % 5 === 0 ? '' : `ü${n}`} ${body}`);
  }
  expect(spool.count).toBe(3_000);
  const slices = await slicesOf(spool, { records: 100, bytes: 300_000 });
  expect(slices.flat()).toEqual(added);
  expect(Math.max(...slices.map((slice) => slice.length))).toBe(100);
  expect(await slicesOf(spool, { records: 2_000, bytes: 1e9 })).toHaveLength(2);
  room.close();
});

test('its file has no name, and a spool that ends gives its room back', async () => {
  const room = new SpoolRoom({ directory, limit: 1_000_000 });
  const body = Buffer.alloc(300_000);
  const [a, b] = [room.spool(), room.spool()];
  expect(await readdir(directory)).toEqual([]);
  for (let n = 0; n < 3; n++) a.add({ partitionKey: '', body });
  expect(() => b.add({ partitionKey: '', body })).toThrow(/larger than the spool/);
  a.close();
  a.close();
  const c = room.spool();
  for (let n = 0; n < 3; n++) c.add({ partitionKey: '', body });
  expect(room.size).toBe(2);
  room.close();
  expect(room.size).toBe(0);
});

test('a directory that is not there is an error that names it', () => {
  expect(() => new SpoolRoom({ directory: join(directory, 'no') }).spool()).toThrow(/ENOENT.*no/);
});
