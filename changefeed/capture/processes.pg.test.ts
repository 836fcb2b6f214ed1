import { afterAll, beforeAll, expect, test } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { until } from '../../test/until.ts';
import { random } from '../testing/random.ts';
import { end, isActive, spawnCapture } from './processes.testing.ts';
import { logLines, query, runLoad, untilAppended, Witness } from './wal.testing.ts';

let server: TestPostgres;

beforeAll(async () => {
  server = await startPostgres();
});

afterAll(() => server?.stop());

test('capture processes that are killed at random lose and double nothing', {
  timeout: 300_000,
}, async () => {
  const seed = Number(process.env.CONGER_TEST_SEED ?? 42);
  const next = random(seed);
  const processes = [await spawnCapture(server.url), await spawnCapture(server.url)];
  const truth = new Witness(server.url);
  await truth.prepare();
  let count = 0;
  for (let round = 0; round < 10; round++) {
    let loading = true;
    const load = runLoad(server.url, { sessions: 4, transactions: 40, seed: seed + round }).finally(() => {
      loading = false;
    });
    while (loading) {
      await new Promise((resolve) => setTimeout(resolve, next() * 150));
      const n = Math.floor(next() * processes.length);
      const victim = processes[n];
      if (victim === undefined) continue;
      await end(victim, next() < 0.8 ? 'SIGKILL' : 'SIGTERM');
      processes[n] = await spawnCapture(server.url);
    }
    count += await load;
  }
  await untilAppended(server.url, count);
  expect(await logLines(server.url), `seed ${seed}`).toEqual(await truth.lines('conger'));

  await until('one of them captures', async () => {
    const active = await Promise.all(processes.map(isActive));
    const metrics = await Promise.all(
      processes.map(async (one) => (await fetch(`${one.url}/metrics`)).text()),
    );
    return (
      active.filter(Boolean).length === 1 &&
      metrics.filter((text) => /^conger_capture_active 1$/m.test(text)).length === 1 &&
      metrics.some((text) => /^conger_capture_wal_behind_bytes \d+$/m.test(text))
    );
  });
  expect(await Promise.all(processes.map((one) => end(one, 'SIGTERM')))).toEqual([0, 0]);
  await until('nobody reads the slot', async () => {
    const slots = await query(server.url, 'SELECT FROM pg_replication_slots WHERE active');
    return slots.length === 0;
  });
});
