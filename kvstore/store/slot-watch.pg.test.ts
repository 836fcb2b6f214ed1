import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { pino } from 'pino';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { metrics } from '../../runtime/metrics.ts';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { type Database, openDatabase } from './database.ts';
import { SlotWatch } from './slot-watch.ts';

let server: TestPostgres;
let database: Database;
let client: pg.Client;
const told: { readonly level: number; readonly msg: string }[] = [];
const log = pino({}, { write: (line: string) => told.push(JSON.parse(line)) });

beforeAll(async () => {
  server = await startPostgres({ max_slot_wal_keep_size: '-1' });
  database = openDatabase(server.url, 4, log);
  client = new pg.Client(server.url);
  await client.connect();
  await client.query('CREATE TABLE other (text text)');
});

afterAll(async () => {
  await client.end();
  await database.close();
  await server.stop();
});

async function until(met: () => boolean): Promise<void> {
  while (!met()) await sleep(5);
}

test('WAL that gathers while nobody captures is told, measured and warned of, until it is gone', async () => {
  const watch = new SlotWatch({ name: 'conger', budget: 4 * 2 ** 20 }, database.readers, log, 10);
  // There is no slot yet: nothing is wrong with a KV tier that has no feed.
  const held = async () =>
    (await metrics.getSingleMetric('conger_kvstore_slot_wal_held_bytes')?.get())?.values[0]?.value;
  expect(await held()).toBe(0);
  await client.query(`SELECT pg_create_logical_replication_slot('conger', 'pgoutput')`);
  while (((await held()) ?? 0) === 0) await sleep(5);
  expect(watch.warning).toBeUndefined();
  while (watch.warning === undefined) {
    await client.query(`INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 500)`);
  }
  expect(await held()).toBeGreaterThan(2 * 2 ** 20);
  await client.query(`INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 5000)`);
  await until(() => told.some(({ level }) => level === 50));
  expect(watch.warning).toMatch(/more WAL than its budget: no capture runs/);
  await client.query(`SELECT pg_drop_replication_slot('conger')`);
  await client.query(`SELECT pg_create_logical_replication_slot('conger', 'pgoutput')`);
  await until(() => watch.warning === undefined);
  expect(told.at(-1)?.level).toBe(30);
  await watch.close();
});

test('one look at a time, however long it takes: none has the last word on what a later one has seen', async () => {
  const { readers } = database;
  const held = await Promise.all(Array.from({ length: readers.max }, () => readers.lend()));
  const watch = new SlotWatch({ name: 'none', budget: 1 }, readers, log, 1);
  await sleep(50);
  const looks = readers.pool.waitingCount;
  for (const client of held) client.release();
  await watch.close();
  expect(looks).toBe(1);
});
