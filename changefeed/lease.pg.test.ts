import { afterAll, beforeAll, expect, test } from 'vitest';
import { silentLogger } from '../runtime/log.ts';
import { startPostgres, type TestPostgres } from '../test/fixtures/postgres.ts';
import { query } from './capture/wal.testing.ts';
import { takeLease } from './lease.ts';
import { takeSeat } from './seat.ts';

let server: TestPostgres;
const never = new AbortController().signal;

beforeAll(async () => {
  server = await startPostgres();
}, 60_000);

afterAll(() => server.stop());

const options = (name: string) => ({ postgres: server.url, name, log: silentLogger() });

test('a holder that is heard of keeps its seat, and one that is not loses it to who waits', async () => {
  const lively = await takeLease(options('lively'), 'seat_a', never);
  const silent = await takeSeat(options('silent'), 'seat_b', never);
  const stop = new AbortController();
  const vain = takeLease(options('vain'), 'seat_a', stop.signal).catch((error: Error) => error);
  const next = await takeLease(options('next'), 'seat_b', never);
  await silent.lost;
  await next.held();
  await lively.held();
  expect(await query(server.url, `SELECT FROM pg_stat_activity WHERE pid = ${lively.pid}`)).toHaveLength(1);
  stop.abort();
  expect(await vain).toBeInstanceOf(Error);
  await Promise.all([lively.leave(), next.leave()]);
});

test('who was stopped for long learns that its seat is lost before it goes on', async () => {
  const lease = await takeLease(options('stopped'), 'seat_c', never);
  await query(server.url, `SELECT pg_terminate_backend(${lease.pid}, 5000)`);
  // As after SIGSTOP: the clock has gone on, and nothing that came meanwhile has been read.
  const end = performance.now() + 1_500;
  while (performance.now() < end);
  await expect(lease.held()).rejects.toThrow();
  await lease.leave();
});

test('a lease holds up neither vacuum nor an index that is built concurrently', async () => {
  const lease = await takeLease(options('holder'), 'seat_d', never);
  const before = performance.now();
  await query(server.url, 'CREATE TABLE busy AS SELECT generate_series(1, 100) AS n');
  for (let heard = 0; heard < 2; ) {
    const [row] = await query(
      server.url,
      `SELECT backend_xmin, backend_xid, state_change > now() - interval '400 ms' AS heard
         FROM pg_stat_activity WHERE pid = ${lease.pid}`,
    );
    expect([row?.backend_xmin, row?.backend_xid]).toEqual([null, null]);
    if (row?.heard === true && performance.now() - before > 500) heard++;
  }
  await query(server.url, 'CREATE INDEX CONCURRENTLY busy_n ON busy (n)');
  await lease.leave();
});
