import pg from 'pg';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { openTestStore, rpcCall, type TestStore } from './testing.ts';

let postgres: TestPostgres;
let store: TestStore;
let other: TestStore;
let client: pg.Client;

beforeAll(async () => {
  postgres = await startPostgres({ fsync: 'off' });
  store = await openTestStore(postgres.url);
  other = await openTestStore(postgres.url);
  client = new pg.Client(postgres.url);
  await client.connect();
});

afterAll(async () => {
  await client?.end();
  await Promise.all([store?.store.close(), other?.store.close()]);
  await postgres?.stop();
});

interface Found {
  readonly key: string;
  readonly value: { readonly n?: number };
}

function get(bucket: string, key: string, options: object = {}): Promise<Found> {
  return store.first('getObject', bucket, key, options);
}

const notFound = expect.objectContaining({ name: 'ObjectNotFoundError' });
const noBucket = expect.objectContaining({ name: 'BucketNotFoundError' });

test('each of many reads at once gets its own object, or learns that there is none', async () => {
  await store.call('createBucket', 'many', {}, {});
  for (let n = 0; n < 50; n++) await store.call('putObject', 'many', `k${n}`, { n }, {});
  const wanted = Array.from({ length: 400 }, (_, i) => i % 100);
  const reads = await Promise.allSettled([
    ...wanted.map((n) => get('many', `k${n}`)),
    get('many', 'nul\u0000'),
    get('many', '{"\\,NULL'),
    get('nowhere', 'k1'),
  ]);
  for (const [i, n] of wanted.entries()) {
    if (n < 50) expect(reads[i]).toMatchObject({ value: { key: `k${n}`, value: { n } } });
    else expect(reads[i]).toEqual({ status: 'rejected', reason: notFound });
  }
  expect(reads.slice(400)).toEqual(
    [notFound, notFound, noBucket].map((reason) => ({ status: 'rejected', reason })),
  );
});

test('a read sees every write that was acknowledged before it was asked for', async () => {
  await store.call('createBucket', 'own', {}, {});
  let running = true;
  const noise = Array.from({ length: 8 }, async () => {
    while (running) await get('own', 'shared').catch(() => {});
  });
  const writers = Array.from({ length: 8 }, async (_, w) => {
    const key = w < 4 ? `k${w}` : 'shared';
    for (let n = 0; n < 40; n++) {
      const { etag } = await store.first('putObject', 'own', key, { n, w }, {});
      const read = (await store.first('getObject', 'own', key, {})) as { _etag: string };
      if (key !== 'shared') expect(read._etag).toBe(etag);
    }
  });
  await Promise.all(writers);
  running = false;
  await Promise.all(noise);
});

test('reads that wait while their bucket is changed, made anew or deleted see it as it is then', async () => {
  await store.call('createBucket', 'fickle', { index: { a: { type: 'string' } } }, {});
  await store.call('putObject', 'fickle', 'k', { n: 1 }, {});
  expect((await get('fickle', 'k')).value).toEqual({ n: 1 });
  await other.call('updateBucket', 'fickle', { index: { b: { type: 'number' } } }, {});
  const found = await Promise.all(['k', 'k', 'k'].map((key) => get('fickle', key)));
  for (const object of found) expect(object.value).toEqual({ n: 1 });

  await other.call('delBucket', 'fickle', {});
  const gone = await Promise.allSettled(['k', 'x', 'k'].map((key) => get('fickle', key)));
  for (const read of gone) expect(read).toEqual({ status: 'rejected', reason: noBucket });

  await other.call('createBucket', 'fickle', {}, {});
  await other.call('putObject', 'fickle', 'x', { n: 2 }, {});
  const anew = await Promise.allSettled(['k', 'x'].map((key) => get('fickle', key)));
  expect(anew).toMatchObject([{ status: 'rejected', reason: notFound }, { value: { value: { n: 2 } } }]);
});

test('no more is read for a connection than it takes, and the others wait for none of it', async () => {
  await store.call('createBucket', 'large', {}, {});
  await store.call('putObject', 'large', 'k', { n: 1 }, {});
  const handler = store.store.rpcs.getObject;
  if (handler === undefined) throw new Error('there is no getObject');
  const { signal } = new AbortController();
  let sent = 0;
  let take = () => {};
  const taken = new Promise<void>((resolve) => {
    take = resolve;
  });
  const send = () => {
    sent++;
    return taken;
  };
  const calls = Array.from({ length: 300 }, () => handler(rpcCall(['large', 'k', {}], send, signal)));
  await vi.waitFor(() => expect(sent).toBe(64), { timeout: 30_000 });
  for (let i = 0; i < 10; i++) expect((await get('large', 'k')).value).toEqual({ n: 1 });
  expect(sent).toBe(64);
  take();
  await Promise.all(calls);
  expect(sent).toBe(300);
});

test('a time limit is that of one read', async () => {
  await store.call('createBucket', 'held', {}, {});
  await store.call('putObject', 'held', 'k', { n: 1 }, {});
  await client.query('BEGIN; LOCK TABLE kv.held IN ACCESS EXCLUSIVE MODE');
  const patient = get('held', 'k');
  await expect(get('held', 'k', { timeout: 50 })).rejects.toMatchObject({ name: 'QueryTimeoutError' });
  await client.query('ROLLBACK');
  expect((await patient).value).toEqual({ n: 1 });
});

test('a read uses the index, however its bucket has grown since the first', async () => {
  const reader = await openTestStore(postgres.url, { poolSize: 2 });
  await store.call('createBucket', 'grown', {}, {});
  await client.query('ANALYZE kv.grown');
  for (let i = 0; i < 10; i++)
    await expect(reader.call('getObject', 'grown', 'k', {})).rejects.toEqual(notFound);
  const scans = async () => {
    await client.query('SELECT pg_stat_clear_snapshot()');
    const { rows } = await client.query(
      `SELECT seq_scan::int AS seq, idx_scan::int AS idx FROM pg_stat_user_tables WHERE relname = 'grown'`,
    );
    return rows[0] as { seq: number; idx: number };
  };
  await client.query(`INSERT INTO kv.grown (_key, _value, _etag, _mtime, _pkey)
    SELECT 'k' || n, '{"n":' || n || '}', 'E', 0, '' FROM generate_series(1, 20000) n`);
  for (let i = 1; i <= 20; i++) await reader.call('getObject', 'grown', `k${i}`, {});
  await reader.store.close();
  // A backend tells its figures when it ends, at the latest.
  let seen = await scans();
  while (seen.idx < 30) seen = await scans();
  // What built the bucket's own indexes is among them, or not yet.
  expect(seen.seq).toBeLessThan(5);
});
