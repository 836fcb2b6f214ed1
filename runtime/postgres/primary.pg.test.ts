import { afterEach, beforeEach, expect, test } from 'vitest';
import { type ReplicatedPostgres, startReplicatedPostgres } from '../../test/fixtures/replicated-postgres.ts';
import { silentLogger } from '../log.ts';
import { openPrimaryFinder, type PrimaryFinder } from './primary.ts';

let postgres: ReplicatedPostgres;
let finder: PrimaryFinder;

beforeEach(async () => {
  postgres = await startReplicatedPostgres();
  finder = openPrimaryFinder(postgres.url, silentLogger());
});

afterEach(async () => {
  await finder?.close();
  await postgres?.stop();
});

function until(done: () => boolean): Promise<void> {
  return new Promise((resolve) => {
    const check = () => {
      if (!done()) return;
      silence();
      resolve();
    };
    const silence = finder.onChange(check);
    check();
  });
}

/** Milliseconds until the finder has gone over to what is the primary now. */
async function switched(): Promise<number> {
  const { url } = postgres.primary();
  const start = performance.now();
  await until(() => finder.current?.url === url);
  return performance.now() - start;
}

test('finds the primary and its standby, and a killed primary’s successor within two seconds', async () => {
  const { url } = postgres.primary();
  const standby = postgres.standby()?.url;
  expect(await finder.primary(5_000)).toEqual({ url, timeline: 1 });
  await until(() => finder.standbys.length > 0);
  expect(finder.standbys).toEqual([standby]);
  await postgres.killPrimary();
  await until(() => finder.current === undefined);
  expect(finder.standbys).toEqual([]);
  await expect(finder.primary(100)).rejects.toMatchObject({
    name: 'NoDatabasePeersError',
    context: { retryAfterMs: 1_000 },
  });
  const waiting = finder.primary(10_000);
  await postgres.promoteStandby();
  expect(await switched()).toBeLessThan(2_000);
  expect(await waiting).toEqual({ url: standby, timeline: 2 });
  await postgres.addStandby();
  await until(() => finder.standbys.length > 0);
  expect(finder.standbys).toEqual([url]);
  expect(finder.current).toEqual({ url: standby, timeline: 2 });
});

test('leaves a frozen primary for its successor within two seconds, and does not go back when it wakes', async () => {
  const old = postgres.primary();
  await finder.primary(5_000);
  await old.kill('SIGSTOP');
  await postgres.promoteStandby();
  expect(await switched()).toBeLessThan(2_000);
  await old.kill('SIGCONT');
  // Both say that they are the primary; another look at both changes nothing.
  expect(await old.query('SELECT pg_is_in_recovery() AS standby')).toEqual([{ standby: false }]);
  const seen = new Set<string | undefined>();
  const silence = finder.onChange(() => seen.add(finder.current?.url));
  await postgres.killPrimary();
  await until(() => finder.current === undefined);
  await expect(finder.primary(1_500)).rejects.toMatchObject({ name: 'NoDatabasePeersError' });
  silence();
  expect(seen).toEqual(new Set([undefined]));
  // Nor does one who starts to look in this process now.
  const other = openPrimaryFinder(postgres.url, silentLogger());
  await expect(other.primary(1_500)).rejects.toMatchObject({ name: 'NoDatabasePeersError' });
  await other.close();
});

test('leaves a primary that still answers for its successor', async () => {
  await finder.primary(5_000);
  await postgres.promoteStandby();
  expect(await switched()).toBeLessThan(2_000);
  expect(finder.current?.timeline).toBe(2);
});

test('keeps a primary that freezes for a moment', async () => {
  const { url } = await finder.primary(5_000);
  const seen = new Set<string | undefined>();
  finder.onChange(() => seen.add(finder.current?.url));
  await postgres.primary().kill('SIGSTOP');
  const beats =
    "SELECT FROM pg_stat_activity WHERE application_name = 'conger watch' AND query_start > now() - interval '300 ms'";
  // Its standby being asked in haste shows that the silence was noticed.
  for (let hasty = 0; hasty < 5; ) hasty += (await postgres.standby()?.query(beats))?.length ?? 0;
  await postgres.primary().kill('SIGCONT');
  await postgres.primary().query('SELECT 1');
  expect(finder.current?.url).toBe(url);
  expect(seen.has(undefined)).toBe(false);
});
