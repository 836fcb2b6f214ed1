import { afterAll, beforeAll, expect, test } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { openTestStore, type TestStore } from './testing.ts';

let postgres: TestPostgres;
let store: TestStore;
let other: TestStore;

const index = { n: { type: 'number' } };

beforeAll(async () => {
  postgres = await startPostgres({ fsync: 'off' });
  store = await openTestStore(postgres.url, { sql: true });
  other = await openTestStore(postgres.url);
  for (const name of ['ordered', 'second']) {
    await store.call('createBucket', name, { index, options: { guaranteeOrder: true } }, {});
  }
  await store.call('createBucket', 'plain', { index }, {});
});

afterAll(async () => {
  await other?.store.close();
  await store?.store.close();
  await postgres?.stop();
});

async function snap(key: string, bucket = 'ordered'): Promise<number | null> {
  return (await store.first('getObject', bucket, key, {}))._txn_snap;
}

test('_txn_snap grows with each put, and is there to be searched for', async () => {
  await store.call('putObject', 'ordered', 'k', { n: 1 }, {});
  const first = await snap('k');
  expect(first).toBeGreaterThan(0);
  await store.call('putObject', 'ordered', 'k', { n: 1 }, {});
  await store.call('putObject', 'ordered', 'l', { n: 1 }, {});
  expect(await snap('k')).toBeGreaterThan(first ?? 0);
  expect(await snap('l')).toBeGreaterThan((await snap('k')) ?? 0);
  const after = await store.call('findObjects', 'ordered', `(&(_txn_snap>=${await snap('l')})(_id>=1))`, {});
  expect(after).toMatchObject([{ key: 'l', value: { n: 1 } }]);
});

test('a bucket without the option has none', async () => {
  await store.call('putObject', 'plain', 'k', { n: 1 }, {});
  expect(await snap('k', 'plain')).toBeNull();
});

test('every write of a batch has its own, in the order of the batch', async () => {
  const keys = ['b3', 'b1', 'b2'];
  await store.call(
    'batch',
    keys.map((key) => ({ bucket: 'ordered', key, value: { n: 2 } })),
    {},
  );
  const snaps = await Promise.all(keys.map((key) => snap(key)));
  expect(snaps).toEqual([...snaps].sort((a, b) => Number(a) - Number(b)));
  expect(new Set(snaps).size).toBe(3);
});

test('whoever reads up to a number never finds a lower one later', async () => {
  let writing = true;
  const writers = [store, other, store, other].map(async (by, w) => {
    for (let i = 0; i < 60; i++) await by.call('putObject', 'ordered', `w${w}.${i}`, { n: 3 }, {});
  });
  const done = Promise.all(writers).finally(() => {
    writing = false;
  });
  const seen = new Set<string>();
  let last = 0;
  const late: unknown[] = [];
  const read = async () => {
    const options = { noLimit: true, sort: { attribute: '_txn_snap', order: 'ASC' } };
    const found = (await store.call('findObjects', 'ordered', '(n=3)', options)) as {
      key: string;
      _txn_snap: number;
    }[];
    for (const object of found) {
      if (seen.has(object.key)) continue;
      seen.add(object.key);
      if (object._txn_snap <= last) late.push(object);
    }
    last = Math.max(last, ...found.map((o) => o._txn_snap));
  };
  while (writing) await read();
  await done;
  await read();
  expect(late).toEqual([]);
  expect(seen.size).toBe(240);
});

test('transactions over ordered buckets in opposite orders all get through', async () => {
  const pair = (i: number, buckets: string[]) =>
    (i % 2 ? store : other).call(
      'batch',
      buckets.map((bucket) => ({ bucket, key: `x${i}`, value: { n: i } })),
      {},
    );
  await Promise.all(
    Array.from({ length: 20 }, (_, i) => pair(i, i % 3 ? ['ordered', 'second'] : ['second', 'ordered'])),
  );
  const found = (await store.call('findObjects', 'second', '(n>=0)', {})) as { _txn_snap: number }[];
  expect(new Set(found.map((o) => o._txn_snap)).size).toBe(20);
});

test('deletes take no number, and a bucket that is made anew starts anew', async () => {
  await store.call('putObject', 'second', 'gone', { n: 1 }, {});
  const before = Number(await snap('gone', 'second'));
  await store.call('delObject', 'second', 'gone', {});
  await store.call('putObject', 'second', 'next', { n: 1 }, {});
  expect(await snap('next', 'second')).toBe(before + 1);
  await store.call('delBucket', 'second', {});
  await store.call('createBucket', 'second', { index, options: { guaranteeOrder: true } }, {});
  await store.call('putObject', 'second', 'k', {}, {});
  expect(await snap('k', 'second')).toBe(1);
});

test('a bucket that gets the option later numbers what is written from then on', async () => {
  await store.call('updateBucket', 'plain', { index, options: { guaranteeOrder: true } }, {});
  await store.call('putObject', 'plain', 'k', { n: 2 }, {});
  expect(await snap('k', 'plain')).toBe(1);
});
