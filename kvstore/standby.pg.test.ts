import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { silentLogger } from '../runtime/log.ts';
import { metrics } from '../runtime/metrics.ts';
import { startKvstore, type TestKvstore } from '../test/fixtures/kvstore.ts';
import { type ReplicatedPostgres, startReplicatedPostgres } from '../test/fixtures/replicated-postgres.ts';
import { createKv } from './client.ts';
import { onPrimaryAlone } from './position.ts';
import { openTestStore, rpcCall } from './store/testing.ts';
import type { Kv } from './types.ts';

vi.setConfig({ testTimeout: 180_000 });

let postgres: ReplicatedPostgres;
let kvstore: TestKvstore;
let kv: Kv;

beforeAll(async () => {
  postgres = await startReplicatedPostgres();
  kvstore = await startKvstore(postgres.url);
  kv = createKv({ servers: [kvstore.url], log: silentLogger() });
  await kv.ensureBucket('b', { index: { n: { type: 'number' } } });
}, 120_000);

afterEach(async () => {
  await postgres.standby()?.kill('SIGCONT');
  await postgres.standby()?.query('SELECT pg_wal_replay_resume()');
});

afterAll(async () => {
  await kv?.close();
  await kvstore?.stop();
  await postgres?.stop();
});

const atStandby = { standby: true };

/** The standby goes on receiving, and so confirms commits, and replays none of them. */
async function pauseReplay(): Promise<void> {
  const standby = postgres.standby();
  await standby?.query('SELECT pg_wal_replay_pause()');
  const state = async () =>
    (await standby?.query('SELECT pg_get_wal_replay_pause_state() AS state'))?.[0]?.state;
  // The startup process looks at it when there is something to replay.
  while ((await state()) !== 'paused')
    await postgres.primary().query('SELECT pg_logical_emit_message(true, $$x$$, $$x$$)');
}

async function fallbacks(): Promise<number> {
  const metric = await metrics.getSingleMetric('conger_kvstore_standby_fallbacks_total')?.get();
  return metric?.values[0]?.value ?? 0;
}

/** Reads that the primary had to answer first. */
let late = 0;

/** Reads until it is the standby that answers, and not the primary because the standby was late or is not known yet. */
async function fromStandby<T>(read: () => Promise<T>): Promise<T> {
  for (let again = false; ; again = true) {
    const before = await fallbacks();
    const answer = await read();
    if ((await fallbacks()) === before) return answer;
    if (!again) late++;
    await sleep(20);
  }
}

/** When the standby was last asked whether it has a position. */
async function lastAsked(): Promise<unknown> {
  const rows = await postgres.standby()?.query(
    `SELECT max(query_start)::text AS at FROM pg_stat_activity
     WHERE query LIKE '%pg_last_wal_replay_lsn() >=%' AND application_name = 'conger-kvstore'`,
  );
  return rows?.[0]?.at;
}

/** Resolves once reads do go to the standby. */
async function standbyIsKnown(): Promise<void> {
  await fromStandby(() => kv.tryGet('b', 'any', atStandby));
}

test('reads of a standby see the writes whose position they name', async () => {
  await standbyIsKnown();
  late = 0;
  for (let n = 1; n <= 50; n++) {
    const { position } = await kv.put('b', 'own', { n }, { position: true });
    expect(position).toMatch(/^[0-9A-F]+\/[0-9A-F]+$/);
    const read = { ...atStandby, ...(position === undefined ? {} : { minPosition: position }) };
    expect((await fromStandby(() => kv.get('b', 'own', read))).value).toEqual({ n });
    const found = await fromStandby(() => kv.find('b', `(n=${n})`, read));
    expect(found).toMatchObject({ objects: [{ key: 'own', value: { n } }], count: 1, snapshot: '', lsn: '' });
  }
  const deleted = await kv.del('b', 'own', { position: true });
  const gone = { ...atStandby, minPosition: deleted.position ?? '' };
  expect(await fromStandby(() => kv.tryGet('b', 'own', gone))).toBeUndefined();
  const ops = [{ operation: 'put' as const, bucket: 'b', key: 'own', value: { n: 0 } }];
  const batch = await kv.batch(ops, { position: true });
  const there = { ...atStandby, minPosition: batch.position ?? '' };
  expect((await fromStandby(() => kv.get('b', 'own', there))).value).toEqual({ n: 0 });
  // The exception among 102 reads.
  expect(late).toBeLessThan(50);
});

test('without a position a standby answers what it has; with one it waits, and then the primary answers', async () => {
  await kv
    .put('b', 'lag', { n: 1 }, { position: true })
    .then(({ position = '' }) =>
      fromStandby(() => kv.get('b', 'lag', { ...atStandby, minPosition: position })),
    );
  await pauseReplay();
  const { position: minPosition = '' } = await kv.put('b', 'lag', { n: 2 }, { position: true });
  expect((await kv.get('b', 'lag')).value).toEqual({ n: 2 });
  expect((await fromStandby(() => kv.get('b', 'lag', atStandby))).value).toEqual({ n: 1 });
  const found = await fromStandby(() => kv.find('b', '(_key=lag)', atStandby));
  expect(found.objects[0]?.value).toEqual({ n: 1 });

  const before = await fallbacks();
  expect((await kv.get('b', 'lag', { ...atStandby, minPosition })).value).toEqual({ n: 2 });
  expect((await kv.find('b', '(_key=lag)', { ...atStandby, minPosition })).objects[0]?.value).toEqual({
    n: 2,
  });
  expect(await fallbacks()).toBe(before + 2);

  // It goes on while a read waits for it; where that took longer than a read waits, once more.
  const answered = await fromStandby(async () => {
    await pauseReplay();
    const { position = '' } = await kv.put('b', 'lag', { n: 3 }, { position: true });
    const asked = await lastAsked();
    let ended = false;
    const read = kv.get('b', 'lag', { ...atStandby, minPosition: position }).finally(() => {
      ended = true;
    });
    while (!ended && (await lastAsked()) === asked);
    await postgres.standby()?.query('SELECT pg_wal_replay_resume()');
    return read;
  });
  expect(answered.value).toEqual({ n: 3 });
});

test('a bucket that the standby does not have yet is read at the primary', async () => {
  await pauseReplay();
  await kv.ensureBucket('fresh', { index: { n: { type: 'number' } } });
  await kv.put('fresh', 'k', { n: 1 });
  expect((await kv.get('fresh', 'k', atStandby)).value).toEqual({ n: 1 });
  expect((await kv.find('fresh', '(n=1)', atStandby)).objects).toHaveLength(1);
  await postgres.standby()?.query('SELECT pg_wal_replay_resume()');
});

test('a find that a standby breaks off for what it replays sends no object twice', async () => {
  const store = await openTestStore(postgres.url);
  const standby = postgres.standby();
  await standby?.query("ALTER SYSTEM SET max_standby_streaming_delay = '0'");
  await standby?.query('SELECT pg_reload_conf()');
  await kv.ensureBucket('large', { index: { n: { type: 'number' } } });
  await postgres.primary().query(
    `INSERT INTO kv.large (_key, _value, _etag, _mtime, _pkey, n)
     SELECT 'k' || i, '{"s":"' || repeat('x', 10000) || '"}', 'E', 0, '', i FROM generate_series(1, 6000) i`,
  );
  const { position: minPosition = '' } = await kv.put('large', 'dead', { n: 0 }, { position: true });
  await fromStandby(() => kv.get('large', 'dead', { ...atStandby, minPosition }));

  const seen: string[] = [];
  let vacuumed: Promise<string | undefined> | undefined;
  const call = rpcCall(['large', '(n>=1)', { standby: true, noLimit: true }], async (values) => {
    seen.push(...values.map((value) => (value as { key: string }).key));
    vacuumed ??= kv.del('large', 'dead', { position: true }).then(async ({ position }) => {
      await postgres.primary().query('VACUUM kv.large');
      return position;
    });
    const before = await vacuumed;
    // Slowly, and more so until the standby has come to what was vacuumed: what is left takes longer than that.
    await standby?.query(
      `SELECT pg_sleep(CASE WHEN pg_last_wal_replay_lsn() < '${before}' THEN 0.2 ELSE 0.02 END)`,
    );
  });
  await standbyIsKnown();
  const before = await fallbacks();
  await expect(store.store.rpcs.findObjects?.(call)).rejects.toMatchObject({ name: 'NoDatabasePeersError' });
  expect(await fallbacks()).toBe(before);
  expect(seen.length).toBeGreaterThan(0);
  expect(seen.length).toBeLessThan(6000);
  expect(new Set(seen).size).toBe(seen.length);
  await store.store.close();
});

test('answers hold a position only where it was asked for', async () => {
  const store = await openTestStore(postgres.url);
  expect(await store.call('putObject', 'b', 'k', { n: 71 }, {})).toEqual([{ etag: expect.any(String) }]);
  expect(await store.call('putObject', 'b', 'k', { n: 71 }, { position: true })).toEqual([
    { etag: expect.any(String), position: expect.any(String) },
  ]);
  expect(await store.call('updateObjects', 'b', { n: 72 }, '(n=71)', { position: true })).toEqual([
    { count: 1, etag: expect.any(String), position: expect.any(String) },
  ]);
  expect(await store.call('deleteMany', 'b', '(n=72)', { position: true })).toEqual([
    { count: 1, position: expect.any(String) },
  ]);
  for (const minPosition of ['1', 'x/y', `0/1' OR '1`, 7]) {
    await expect(store.call('getObject', 'b', 'k', { standby: true, minPosition })).rejects.toMatchObject({
      name: 'InvocationError',
    });
  }
  await store.store.close();
});

test('while a standby is frozen or gone the primary answers, and a new one is used again', async () => {
  const { position: minPosition = '' } = await kv.put('b', 'gone', { n: 1 }, { position: true });
  await fromStandby(() => kv.get('b', 'gone', { ...atStandby, minPosition }));
  await postgres.standby()?.kill('SIGSTOP');
  expect((await kv.get('b', 'gone', { ...atStandby, minPosition })).value).toEqual({ n: 1 });
  await postgres.standby()?.kill('SIGCONT');
  await standbyIsKnown();

  await postgres.killPrimary();
  await postgres.promoteStandby();
  expect((await kv.get('b', 'gone', { ...atStandby, minPosition })).value).toEqual({ n: 1 });
  expect((await kv.get('b', 'gone', { ...atStandby, minPosition: onPrimaryAlone })).value).toEqual({ n: 1 });
  await postgres.addStandby();
  expect((await fromStandby(() => kv.get('b', 'gone', { ...atStandby, minPosition }))).value).toEqual({
    n: 1,
  });
});
