import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { startReplicatedPostgres } from '../../test/fixtures/replicated-postgres.ts';
import { createEmbeddedWriter } from '../log/embedded/index.ts';
import { formatPosition, lsnToBigint } from '../position.ts';
import type { Position } from '../types.ts';
import { Capture } from './capture.ts';
import { ReplicationStream } from './replication.ts';
import { ensureSlot, epochAfter, freeSlot } from './slot.ts';
import { type HistoryOf, histories } from './timeline.ts';
import { dropSlots, emit, query, untilWalsenderWaits } from './wal.testing.ts';

const log = silentLogger();

let server: TestPostgres;
let client: pg.Client;

beforeAll(async () => {
  server = await startPostgres();
});

afterAll(() => server?.stop());

beforeEach(async () => {
  client = new pg.Client(server.url);
  await client.connect();
});

afterEach(async () => {
  await dropSlots(server.url);
  await client.query('DROP TABLE IF EXISTS conger_capture');
  await client.end();
});

const noHistory: HistoryOf = async (timeline) => {
  throw new Error(`nobody asks for the history of ${timeline}`);
};

async function walEnd(on: pg.Client): Promise<bigint> {
  const { rows } = await on.query<{ lsn: string }>('SELECT pg_current_wal_lsn()::text AS lsn');
  return lsnToBigint(rows[0]?.lsn ?? '');
}

/** The epoch that a capture would give its positions, with these tails. */
async function begin(tails: readonly Position[], historyOf = noHistory, on = client): Promise<number> {
  return epochAfter(on, 'conger', await ensureSlot(on, 'conger', log), tails, historyOf, log);
}

const at = (epoch: number, lsn: bigint): Position => formatPosition({ epoch, lsn, index: 0 });

async function loseSlot(): Promise<void> {
  await client.query(`SELECT pg_drop_replication_slot('conger')`);
}

test('an epoch lasts as long as its slot, whoever comes', async () => {
  expect(await begin(['', ''])).toBe(1);
  expect(await begin(['', at(1, await walEnd(client))])).toBe(1);
  await loseSlot();
  expect(await begin(['', at(1, await walEnd(client))])).toBe(2);
  expect(await begin([at(2, 0n), at(2, await walEnd(client))])).toBe(2);
});

test('a log that is ahead of PostgreSQL opens a new epoch, once', async () => {
  expect(await begin([''])).toBe(1);
  const ahead = (await walEnd(client)) + 1_000_000n;
  expect(await begin(['', at(1, ahead)])).toBe(2);
  expect(await begin(['', at(1, ahead)])).toBe(2);
  expect(await begin(['', at(7, 1n)])).toBe(8);
});

test('a PostgreSQL that is new does not take the log of another one for its own, however little is in that', async () => {
  expect(await begin(['', at(1, 1n)])).toBe(2);
  expect(await begin([at(2, 0n), at(2, 0n)])).toBe(2);
});

test('nor does one that was restored twice from one backup', async () => {
  expect(await begin([''])).toBe(1);
  await loseSlot();
  // What the backup has: the table, and no slot. The log has what the first restored one captured, in epoch 2.
  const tails = [at(1, 1n), at(2, await walEnd(client))];
  expect(await begin(tails)).toBe(3);
});

test('the table of 0.1.0 goes on in its epoch', async () => {
  await client.query('CREATE TABLE conger_capture (slot text PRIMARY KEY, epoch bigint NOT NULL)');
  await client.query(`INSERT INTO conger_capture VALUES ('conger', 3)`);
  await client.query(`SELECT pg_create_logical_replication_slot('conger', 'pgoutput')`);
  expect(await begin([at(3, await walEnd(client))])).toBe(3);
  await loseSlot();
  expect(await begin([at(3, await walEnd(client))])).toBe(4);
});

test('the slot of another database is refused, and left alone', async () => {
  await client.query('CREATE DATABASE neighbour');
  const url = new URL(server.url);
  url.pathname = '/neighbour';
  const neighbour = new pg.Client(url.href);
  await neighbour.connect();
  expect(await ensureSlot(neighbour, 'conger', log)).toBe(1);
  await expect(ensureSlot(client, 'conger', log)).rejects.toThrow(/of the database neighbour/);
  expect(await ensureSlot(neighbour, 'conger', log)).toBe(1);
  await neighbour.query(`SELECT pg_drop_replication_slot('conger')`);
  await neighbour.end();
});

test('who stopped as it looked for the slot keeps nobody waiting', async () => {
  const stopped = new pg.Client(server.url);
  stopped.on('error', () => undefined);
  await stopped.connect();
  const ask = stopped.query.bind(stopped) as (text: string) => Promise<pg.QueryResult>;
  let stopping: () => void = () => undefined;
  const holding = new Promise<void>((resolve) => {
    stopping = resolve;
  });
  stopped.query = ((text: string) => {
    if (text.includes('pg_advisory')) return ask(text).finally(stopping);
    return text.startsWith('SET') ? ask(text) : new Promise(() => {});
  }) as typeof stopped.query;
  void ensureSlot(stopped, 'conger', log);
  await holding;
  expect(await ensureSlot(client, 'conger', log)).toBe(1);
  // A connection that is used on may be at rest for as long as it likes.
  const { rows } = await client.query('SHOW idle_session_timeout');
  expect(rows).toEqual([{ idle_session_timeout: '0' }]);
  await stopped.end();
});

test('a capture stops also while its slot waits for a transaction to end', async () => {
  const open = new pg.Client(server.url);
  await open.connect();
  await open.query('BEGIN; SELECT pg_current_xact_id()');
  const capture = new Capture({
    postgres: server.url,
    slot: 'conger',
    partitions: 1,
    openWriter: async () =>
      createEmbeddedWriter({
        postgres: server.url,
        partitions: 1,
        retainMs: 2 ** 45,
        retainRecords: 1e6,
        log,
      }),
    log,
  });
  const started = capture.start();
  const making = `SELECT FROM pg_stat_activity WHERE query LIKE '%pg_create_logical%' AND wait_event_type = 'Lock'`;
  while ((await query(server.url, making)).length === 0)
    await new Promise((resolve) => setTimeout(resolve, 10));
  await capture.stop();
  await started;
  await open.query('ROLLBACK');
  await open.end();
  // What PostgreSQL was told to make it makes.
  while ((await query(server.url, 'SELECT FROM pg_replication_slots WHERE NOT active')).length === 0) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
});

test('a log that has what the promoted standby never had opens a new epoch, however much the standby has written since', {
  timeout: 180_000,
}, async () => {
  const postgres = await startReplicatedPostgres();
  const on = async () => {
    const one = new pg.Client(postgres.primary().url);
    one.on('error', () => undefined);
    await one.connect();
    return one;
  };
  try {
    const before = await on();
    expect(await begin([''], noHistory, before)).toBe(1);
    // A commit record begins before the end of what it is in.
    const common = (await walEnd(before)) - 1n;
    // With this commit the standby has all before it, whatever else PostgreSQL wrote there.
    await before.query('CREATE TABLE confirmed ()');
    await before.end();
    await postgres.killPrimary();
    await postgres.promoteStandby();
    const after = await on();
    const beyond = await walEnd(after);
    await after.query(`CREATE TABLE other AS SELECT repeat('x', 1000) FROM generate_series(1, 5000)`);
    // The slot did not come along here, which is not what this is about.
    await after.query(`SELECT pg_create_logical_replication_slot('conger', 'pgoutput')`);
    const historyOf = histories(postgres.url, 'test history', log);
    const beginAfter = (lsn: bigint) => begin([at(1, lsn)], historyOf, after);
    await after.query('BEGIN');
    expect(await beginAfter(beyond)).toBe(2);
    await after.query('ROLLBACK');
    expect(await beginAfter(common)).toBe(1);
    expect(await beginAfter(beyond)).toBe(1);
    await after.end();
  } finally {
    await postgres.stop();
  }
});

test('a walsender whose client reads nothing any more is ended all the same', async () => {
  await begin(['']);
  const stream = await ReplicationStream.open({
    ...{ postgres: server.url, slot: 'conger', publication: 'conger', streaming: true, log },
    handler: { data: () => {}, keepalive: () => {} },
  });
  try {
    await stream.begun;
    stream.pause();
    for (let n = 0; n < 40; n++) await emit(client, [{ partitionKey: 'k', body: 'y'.repeat(500_000) }]);
    await untilWalsenderWaits(client);
    await freeSlot(client, 'conger', log);
    expect((await client.query('SELECT active FROM pg_replication_slots')).rows).toEqual([{ active: false }]);
  } finally {
    stream.resume();
    await stream.close();
  }
});
