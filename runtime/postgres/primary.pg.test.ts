import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import {
  type Node,
  type ReplicatedPostgres,
  startReplicatedPostgres,
} from '../../test/fixtures/replicated-postgres.ts';
import { silentLogger } from '../log.ts';
import { openPrimaryFinder, type PrimaryFinder } from './primary.ts';

vi.setConfig({ testTimeout: 180_000 });

/** How long there may be no primary, on a machine that is busy. */
const patienceMs = 60_000;

let postgres: ReplicatedPostgres;
let finder: PrimaryFinder;

beforeEach(async () => {
  postgres = await startReplicatedPostgres();
  finder = openPrimaryFinder(postgres.url, silentLogger());
});

afterEach(async () => {
  vi.restoreAllMocks();
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

/** Resolves once the finder has gone over to what is the primary now: two seconds later, where nothing else is slow. */
async function switched(): Promise<void> {
  const { url } = postgres.primary();
  const start = performance.now();
  await until(() => finder.current?.url === url);
  const ms = performance.now() - start;
  console.log(`${ms.toFixed(0)} ms after the promotion: ${expect.getState().currentTestName}`);
  // Long before a connection to a host that is frozen would break.
  expect(ms).toBeLessThan(30_000);
}

/** Resolves once a host has been asked three times each within less than it rests while all is well. */
async function askedInHaste(host: Node): Promise<void> {
  const lastAsked = `SELECT extract(epoch FROM query_start) * 1000 AS at FROM pg_stat_activity
    WHERE application_name = 'conger watch'`;
  let last = Number.NEGATIVE_INFINITY;
  for (let hasty = 0; hasty < 3; ) {
    const at = Number((await host.query(lastAsked))[0]?.at);
    if (at > last && at - last < 700) hasty++;
    if (at > last) last = at;
  }
}

test('finds the primary and its standby, and a killed primary’s successor', async () => {
  const { url } = postgres.primary();
  const standby = postgres.standby()?.url;
  expect(await finder.primary(patienceMs)).toEqual({ url, timeline: 1 });
  await until(() => finder.standbys.length > 0);
  expect(finder.standbys).toEqual([standby]);
  await postgres.killPrimary();
  await until(() => finder.current === undefined);
  expect(finder.standbys).toEqual([]);
  await expect(finder.primary(100)).rejects.toMatchObject({
    name: 'NoDatabasePeersError',
    context: { retryAfterMs: 1_000 },
  });
  const waiting = finder.primary(patienceMs);
  await postgres.promoteStandby();
  await switched();
  expect(await waiting).toEqual({ url: standby, timeline: 2 });
  await postgres.addStandby();
  await until(() => finder.standbys.length > 0);
  expect(finder.standbys).toEqual([url]);
  expect(finder.current).toEqual({ url: standby, timeline: 2 });
});

test('leaves a frozen primary for its successor, and does not go back when it wakes', async () => {
  const old = postgres.primary();
  await finder.primary(patienceMs);
  await old.kill('SIGSTOP');
  await postgres.promoteStandby();
  await switched();
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
  await finder.primary(patienceMs);
  await postgres.promoteStandby();
  await switched();
  expect(finder.current?.timeline).toBe(2);
});

test('keeps a primary that freezes for a moment', async () => {
  const { url } = await finder.primary(patienceMs);
  const standby = postgres.standby();
  if (standby === undefined) throw new Error('there is no standby');
  const seen = new Set<string | undefined>();
  finder.onChange(() => seen.add(finder.current?.url));
  // However long this takes here, it is a moment for who is patient.
  vi.spyOn(performance, 'now').mockReturnValue(performance.now());
  await postgres.primary().kill('SIGSTOP');
  // Its standby being asked in haste shows that the silence was noticed.
  await askedInHaste(standby);
  await postgres.primary().kill('SIGCONT');
  await postgres.primary().query('SELECT 1');
  expect(finder.current?.url).toBe(url);
  expect(seen.has(undefined)).toBe(false);
});
