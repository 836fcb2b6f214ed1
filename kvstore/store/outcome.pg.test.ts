import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { isCongerError } from '../../runtime/errors.ts';
import { type ReplicatedPostgres, startReplicatedPostgres } from '../../test/fixtures/replicated-postgres.ts';
import { openTestStore, type TestStore } from './testing.ts';

let postgres: ReplicatedPostgres;
let store: TestStore;

const unknown = { name: 'UnknownOutcomeError' };
const noPeers = { name: 'NoDatabasePeersError' };
const config = { index: { n: { type: 'number' } } };

/** Every way in which something is committed. */
const commits: readonly [string, (key: string) => Promise<unknown>][] = [
  ['putObject', (key) => store.call('putObject', 'b', key, { n: 1 }, {})],
  ['delObject', () => store.call('delObject', 'b', 'deleted', {})],
  ['batch', (key) => store.call('batch', [{ bucket: 'b', key, value: { n: 1 } }], {})],
  ['updateObjects', () => store.call('updateObjects', 'b', { n: 2 }, '(n=0)', {})],
  ['deleteMany', () => store.call('deleteMany', 'b', '(n=0)', {})],
  ['createBucket', (key) => store.call('createBucket', `b_${key}`, config, {})],
  ['sql', (key) => store.call('sql', `INSERT INTO public.t VALUES ('${key}')`, [], {})],
];

async function start(): Promise<void> {
  postgres = await startReplicatedPostgres();
  store = await openTestStore(postgres.url, { sql: true });
  await postgres.primary().query('CREATE TABLE public.t (a text); GRANT ALL ON public.t TO conger');
  await store.call('createBucket', 'b', config, {});
}

async function stop(): Promise<void> {
  await store?.store.close();
  await postgres?.stop();
}

const waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'conger-kvstore'";

/** Resolves once a commit waits for the standby. */
async function untilWaiting(): Promise<void> {
  while ((await postgres.primary().query(`SELECT ${waiting}`)).length === 0);
}

/** Resolves to what becomes of a write, with its answer or error. */
function settled(write: Promise<unknown>): {
  readonly outcome: () => unknown;
  readonly end: Promise<unknown>;
} {
  let outcome: unknown = 'none yet';
  const end = write.then(
    (answer) => {
      outcome = answer;
      return answer;
    },
    (error: unknown) => {
      outcome = error;
      return error;
    },
  );
  return { outcome: () => outcome, end };
}

describe('while the standby is stopped', () => {
  beforeAll(start, 120_000);
  afterAll(stop);

  afterEach(async () => {
    await postgres.standby()?.kill('SIGCONT');
  });

  async function stopped(): Promise<void> {
    for (const key of ['deleted', 'updated']) await store.call('putObject', 'b', key, { n: 0 }, {});
    await postgres.standby()?.kill('SIGSTOP');
  }

  test.each(commits)('%s is not acknowledged before the standby has it', async (name, write) => {
    await stopped();
    const result = settled(write(`waits_${name}`));
    await untilWaiting();
    expect(result.outcome()).toBe('none yet');
    await postgres.standby()?.kill('SIGCONT');
    expect(await result.end).toBeInstanceOf(Array);
  });

  test.each(commits)(
    '%s whose wait for the standby is cancelled has an unknown outcome',
    async (name, write) => {
      await stopped();
      const result = settled(write(`cancelled_${name}`));
      await untilWaiting();
      await postgres.primary().query(`SELECT pg_cancel_backend(pid) ${waiting}`);
      expect(await result.end).toMatchObject(unknown);
    },
  );

  test.each(commits)(
    '%s whose backend is ended while it waits has an unknown outcome',
    async (name, write) => {
      await stopped();
      const result = settled(write(`ended_${name}`));
      await untilWaiting();
      await postgres.primary().query(`SELECT pg_terminate_backend(pid) ${waiting}`);
      expect(await result.end).toMatchObject(unknown);
    },
  );

  test('what had an unknown outcome is there', async () => {
    const rows = await postgres.primary().query("SELECT _key FROM kv.b WHERE _key ~ '_(putObject|batch)$'");
    const both = (how: string) => [`${how}_batch`, `${how}_putObject`];
    expect(rows.map(({ _key }) => _key).sort()).toEqual([
      ...both('cancelled'),
      ...both('ended'),
      ...both('waits'),
    ]);
  });
});

/**
 * Makes a call again for as long as it is told that there is no primary, and to try again; or that it had a connection
 * of which nobody knew yet that it was broken.
 */
async function patiently<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!isCongerError(error, 'NoDatabasePeersError', 'UnknownOutcomeError')) throw error;
    }
  }
}

describe('when the primary is killed', () => {
  beforeAll(start, 120_000);
  afterAll(stop);

  test('commits under way have an unknown outcome, what is before its commit has not happened', async () => {
    for (const key of ['deleted', 'updated', 'locked']) await store.call('putObject', 'b', key, { n: 0 }, {});
    await store.call('createBucket', 'b_other', config, {});
    const old = postgres.primary();
    await postgres.standby()?.kill('SIGSTOP');
    const commit = settled(store.call('putObject', 'b', 'commit', { n: 1 }, {}));
    await untilWaiting();
    // Holds a row that the batch then waits for, and never commits.
    const holder = old.query(
      "BEGIN; SELECT FROM kv.b WHERE _key = 'locked' FOR UPDATE; SELECT pg_sleep(600)",
    );
    const held = expect(holder).rejects.toThrow();
    while ((await old.query("SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'")).length === 0);
    const requests = ['b', 'b_other'].map((bucket) => ({ bucket, key: 'locked', value: { n: 2 } }));
    const batch = settled(store.call('batch', requests, {}));
    const blocked =
      "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'conger-kvstore'";
    while ((await old.query(blocked)).length === 0);

    await postgres.killPrimary();
    expect(await commit.end).toMatchObject(unknown);
    expect(await batch.end).toMatchObject(noPeers);
    await held;

    // What comes meanwhile waits for the next primary, and may be made again where that takes too long.
    const meanwhile = settled(patiently(() => store.call('getObject', 'b', 'locked', {})));
    const write = settled(patiently(() => store.call('putObject', 'b', 'meanwhile', { n: 3 }, {})));
    await postgres.standby()?.kill('SIGCONT');
    await postgres.promoteStandby();
    expect(await meanwhile.end).toMatchObject([{ value: { n: 0 } }]);
    expect(await write.end).toMatchObject([{ etag: expect.any(String) }]);
  }, 120_000);

  test('and nobody takes its place, calls say so after a few seconds, with a hint', async () => {
    await postgres.killPrimary();
    const hint = { ...noPeers, context: { retryAfterMs: 1_000 } };
    await expect(store.call('putObject', 'b', 'nobody', { n: 1 }, {})).rejects.toMatchObject({
      name: expect.stringMatching(/^(NoDatabasePeers|UnknownOutcome)Error$/),
    });
    const before = performance.now();
    await Promise.all([
      expect(store.call('putObject', 'b', 'nobody', { n: 1 }, {})).rejects.toMatchObject(hint),
      expect(store.call('getObject', 'b', 'locked', {})).rejects.toMatchObject(hint),
      expect(store.store.ping()).rejects.toMatchObject(hint),
    ]);
    expect(performance.now() - before).toBeLessThan(30_000);
  });
});
