import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { Capture } from '../changefeed/capture/capture.ts';
import { Checkpoint, checkpointBucket, ensureConsumerBuckets } from '../changefeed/checkpoint.ts';
import { createEmbeddedWriter } from '../changefeed/log/embedded/index.ts';
import { ensureLog } from '../changefeed/log/embedded/schema.ts';
import { createKv } from '../kvstore/client.ts';
import type { Kv } from '../kvstore/types.ts';
import { silentLogger } from '../runtime/log.ts';
import { startKvstore, type TestKvstore } from '../test/fixtures/kvstore.ts';
import { startPostgres, type TestPostgres } from '../test/fixtures/postgres.ts';
import { Home } from './home.ts';
import { type HomeLog, homeLogOf, readHomeLog, useLog } from './home-log.ts';

const slot = 'conger';
const embedded = homeLogOf(false, 'changes');
const own = homeLogOf(true, 'changes');

let postgres: TestPostgres;
let kvstore: TestKvstore;
let kv: Kv;
let client: pg.Client;
let home: Home;
let said: string[];

beforeAll(async () => {
  postgres = await startPostgres({ fsync: 'off' });
});

afterAll(async () => {
  await client?.end();
  await kv?.close();
  await kvstore?.stop();
  await postgres?.stop();
});

beforeEach(async () => {
  const path = await mkdtemp(join(tmpdir(), 'conger-home-log-'));
  home = new Home(path);
  said = [];
  return () => rm(path, { recursive: true });
});

const use = (log: HomeLog) =>
  useLog({ home, log, postgres: postgres.url, slot, say: (line) => said.push(line) });

test('a new home only remembers its log', async () => {
  await use(embedded);
  expect(await readHomeLog(home)).toEqual({ kind: 'embedded' });
  await use(embedded);
  expect(said).toEqual([]);
});

/** What a datacenter that was stopped has left in PostgreSQL. */
async function fill(): Promise<void> {
  if (client === undefined) {
    client = new pg.Client(postgres.url);
    await client.connect();
    kvstore = await startKvstore(postgres.url);
    kv = createKv({ servers: [kvstore.url], log: silentLogger() });
    await ensureConsumerBuckets(kv);
    await ensureLog(client, 8);
  }
  const { slots } = await left();
  if (slots === 0) await client.query(`SELECT pg_create_logical_replication_slot('${slot}', 'pgoutput')`);
  await Checkpoint.takeOver(kv, 'somebody', 3, 'an owner');
  await client.query(
    `INSERT INTO conger_log VALUES (0, '00000001-0000000000000001-00000000', 1, 'k', 1, 0, 1, 0, '{}')
       ON CONFLICT DO NOTHING`,
  );
}

async function left(): Promise<{ slots: number; checkpoints: number; records: number }> {
  const { rows } = await client.query(
    `SELECT (SELECT count(*)::int FROM pg_replication_slots WHERE slot_name = '${slot}') AS slots,
       (SELECT count(*)::int FROM conger_log) AS records`,
  );
  const found = await kv.find(checkpointBucket, '(consumer=*)', { noLimit: true });
  return { ...rows[0], checkpoints: found.objects.length };
}

test('the same log leaves everything; another one forgets how far the one before was read', async () => {
  await fill();
  await use(embedded);
  expect(said).toEqual([expect.stringContaining('where it was before is not known')]);
  await fill();
  said = [];
  await use(embedded);
  expect(said).toEqual([]);
  expect(await left()).toEqual({ slots: 1, checkpoints: 1, records: 1 });
  await use(own);
  expect(said).toEqual([
    expect.stringMatching(/^the log of changes is in the home's own Kafka .*before, it was in PostgreSQL/),
  ]);
  // Nobody reads the table as long as the log is elsewhere.
  expect(await left()).toEqual({ slots: 0, checkpoints: 0, records: 1 });
  expect(await readHomeLog(home)).toEqual(own);
  await fill();
  await use(embedded);
  expect(await left()).toEqual({ slots: 0, checkpoints: 0, records: 0 });
});

test('other brokers, or another topic, are another log; their order says nothing', async () => {
  await use(homeLogOf(['b:1', 'a:1'], 'changes'));
  said = [];
  await fill();
  await use(homeLogOf(['a:1', 'b:1'], 'changes'));
  expect(said).toEqual([]);
  await use(homeLogOf(['a:1', 'c:1'], 'changes'));
  await fill();
  await use(homeLogOf(['a:1', 'c:1'], 'others'));
  expect(said).toEqual([expect.stringContaining('a:1,c:1'), expect.stringContaining('topic others')]);
});

test('what another datacenter works with is left alone', async () => {
  await fill();
  await use(embedded);
  const capture = new Capture({
    postgres: postgres.url,
    slot,
    partitions: 8,
    openWriter: async () =>
      createEmbeddedWriter({
        postgres: postgres.url,
        partitions: 8,
        retainMs: 2 ** 45,
        retainRecords: 1e6,
        log: silentLogger(),
      }),
    log: silentLogger(),
  });
  await capture.start();
  try {
    const reading = `SELECT active FROM pg_replication_slots WHERE slot_name = '${slot}'`;
    while (!(await client.query<{ active: boolean }>(reading)).rows[0]?.active);
    await fill();
    const before = await left();
    const newcomer = new Home(join(home.path, 'newcomer'));
    await newcomer.make();
    said = [];
    await Promise.all([
      expect(use(own)).rejects.toThrow('another datacenter works with this PostgreSQL (slot conger)'),
      useLog({ home: newcomer, log: own, postgres: postgres.url, slot, say: (line) => said.push(line) }),
    ]);
    expect(await readHomeLog(home)).toEqual(embedded);
    expect(await readHomeLog(newcomer)).toEqual(own);
    expect(said).toEqual([]);
    expect(await left()).toEqual(before);
  } finally {
    await capture.stop();
  }
});
