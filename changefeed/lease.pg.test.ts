import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { silentLogger } from '../runtime/log.ts';
import { startPostgres, type TestPostgres } from '../test/fixtures/postgres.ts';
import { startProxy } from '../test/fixtures/proxy.ts';
import { query } from './capture/wal.testing.ts';
import { takeLease } from './lease.ts';
import { Patience } from './patience.ts';
import { takeFreeSeat, takeSeat } from './seat.ts';

let server: TestPostgres;
/** How often who waits looks. */
const beatMs = 300;
const never = new AbortController().signal;

beforeAll(async () => {
  server = await startPostgres();
});

afterAll(() => server?.stop());

const options = (name: string) => ({ postgres: server.url, name, log: silentLogger() });

/** Of who takes a holder that is silent for so long for stopped: a loaded machine itself may stand still for a while. */
const patienceMs = 5_000;
const patience = () => new Patience(patienceMs, patienceMs);

test('a holder that is heard of keeps its seat, and one that is not loses it to who waits', async () => {
  const lively = await takeLease(options('lively'), 'seat_a', never, patience());
  const stop = new AbortController();
  const vain = takeLease(options('vain'), 'seat_a', stop.signal, patience()).catch((error: Error) => error);
  const silent = await takeSeat(options('silent'), 'seat_b', never);
  const next = await takeLease(options('next'), 'seat_b', never, patience());
  await silent.lost;
  await next.held();
  // Who waits in vain has looked since its holder would have been silent for that long.
  await sleep(2 * beatMs);
  await lively.held();
  expect(await query(server.url, `SELECT FROM pg_stat_activity WHERE pid = ${lively.pid}`)).toHaveLength(1);
  stop.abort();
  expect(await vain).toBeInstanceOf(Error);
  await Promise.all([lively.leave(), next.leave()]);
});

test('who waits looks on over another connection where that went silent', { timeout: 120_000 }, async () => {
  const proxy = await startProxy(Number(new URL(server.url).port));
  const proxied = new URL(server.url);
  proxied.port = String(proxy.port);
  try {
    const silent = await takeSeat(options('silent'), 'seat_e', never);
    const next = takeLease({ ...options('next'), postgres: proxied.href }, 'seat_e', never, patience());
    const looking = `SELECT FROM pg_stat_activity WHERE application_name = 'next watch'`;
    while ((await query(server.url, looking)).length === 0) await sleep(10);
    proxy.strand(1);
    await silent.lost;
    await (await next).leave();
  } finally {
    await proxy.close();
  }
});

test('a connection that goes silent before a free seat is found is given up', {
  timeout: 120_000,
}, async () => {
  const proxy = await startProxy(Number(new URL(server.url).port));
  const proxied = new URL(server.url);
  proxied.port = String(proxy.port);
  function* names() {
    proxy.strand();
    yield 'seat_f';
  }
  try {
    const taking = takeFreeSeat({ ...options('member'), postgres: proxied.href }, names());
    await expect(taking).rejects.toThrow(/PostgreSQL waits/);
  } finally {
    await proxy.close();
  }
});

test('who was stopped for long learns that its seat is lost before it goes on', async () => {
  const lease = await takeLease(options('stopped'), 'seat_c', never, patience());
  await query(server.url, `SELECT pg_terminate_backend(${lease.pid}, 30000)`);
  // As after SIGSTOP: the clock has gone on, and nothing that came meanwhile has been read.
  const end = performance.now() + 1_500;
  while (performance.now() < end);
  await expect(lease.held()).rejects.toThrow();
  await lease.leave();
});

test('a lease holds up neither vacuum nor an index that is built concurrently', async () => {
  const lease = await takeLease(options('holder'), 'seat_d', never, patience());
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
