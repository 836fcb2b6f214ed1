import type pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { silentLogger } from '../runtime/log.ts';
import { startPostgres, type TestPostgres } from '../test/fixtures/postgres.ts';
import { startProxy, type TcpProxy } from '../test/fixtures/proxy.ts';
import { answered, waitsForUs } from './answered.ts';
import { query } from './capture/wal.testing.ts';
import { connect, disconnect } from './postgres.ts';

let server: TestPostgres;
let proxy: TcpProxy;
let client: pg.Client;
let other: pg.Client;

const options = (name: string) => ({ postgres: server.url, name, log: silentLogger() });

beforeAll(async () => {
  server = await startPostgres();
  await query(server.url, 'CREATE TABLE held (n int)');
});

afterAll(() => server.stop());

beforeEach(async () => {
  proxy = await startProxy(Number(new URL(server.url).port));
  const url = new URL(server.url);
  url.port = String(proxy.port);
  client = await connect({ ...options('asks'), postgres: url.href });
  other = await connect(options('other'));
});

afterEach(async () => {
  await Promise.all([disconnect(client), disconnect(other)]);
  await proxy.close();
});

test('an answer that waits for a lock is waited for, and one to a question that was not heard is not', {
  timeout: 180_000,
}, async () => {
  await other.query('BEGIN; LOCK TABLE held');
  const answer = client.query('SELECT n FROM held');
  const state = `SELECT wait_event_type AS waits, state_change < clock_timestamp() - interval '10 s' AS long
                   FROM pg_stat_activity WHERE application_name = 'asks'`;
  for (let long = false; !long; ) {
    const [row] = (await other.query<{ waits: string; long: boolean }>(state)).rows;
    long = row?.waits === 'Lock' && row.long;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  expect(await waitsForUs(client, options('doubt'))).toBe(false);
  await other.query('ROLLBACK');
  expect((await answered(client, options('doubt'), answer)).rows).toEqual([]);
  proxy.strand();
  const vain = client.query('SELECT n FROM held');
  await expect(answered(client, options('doubt'), vain)).rejects.toThrow(/PostgreSQL waits/);
});

test('a backend that is gone gives no answer', async () => {
  proxy.strand();
  await other.query(
    `SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE application_name = 'asks'`,
  );
  expect(await waitsForUs(client, options('doubt'))).toBe(true);
});
