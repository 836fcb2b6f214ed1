import pg from 'pg';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { createEmbeddedWriter } from '../log/embedded/index.ts';
import { random } from '../testing/random.ts';
import { CHANGE_PREFIX } from './assembler.ts';
import { Capture } from './capture.ts';
import type { SpoolOptions } from './spool.ts';
import {
  appendingAfter,
  dropSlots,
  emit,
  logLines,
  query,
  runLoad,
  untilAppended,
  Witness,
} from './wal.testing.ts';

/** Transactions that are larger than PostgreSQL decodes in memory come in parts, before it is known what becomes of them. */

const partitions = 4;
const timeout = 180_000;

let server: TestPostgres;
let capture: Capture | undefined;
let truth: Witness;
/** What the capture has logged. */
let told: string[];
/** While it is set, appends wait. */
let hold: Promise<void> | undefined;
let release: () => void = () => undefined;
let appending: () => void = () => undefined;

beforeAll(async () => {
  server = await startPostgres({ logical_decoding_work_mem: '64kB' });
});

afterAll(() => server?.stop());

beforeEach(async () => {
  told = [];
  hold = undefined;
  truth = new Witness(server.url);
  await truth.prepare();
});

afterEach(async () => {
  release();
  await capture?.stop();
  await dropSlots(server.url);
  await query(server.url, 'DROP TABLE IF EXISTS conger_log, conger_log_writer, conger_capture');
});

async function start(spool: SpoolOptions = {}): Promise<void> {
  capture = new Capture({
    postgres: server.url,
    slot: 'conger',
    partitions,
    openWriter: async () => {
      const inner = createEmbeddedWriter({
        ...{ postgres: server.url, partitions, retainMs: 2 ** 45, retainRecords: 1e6 },
        log: silentLogger(),
      });
      return appendingAfter(inner, () => {
        appending();
        return hold;
      });
    },
    spool,
    log: pino({}, { write: (line: string) => told.push(JSON.parse(line).msg) }),
  });
  await capture.start();
  while (!capture.status.active) await new Promise((resolve) => setTimeout(resolve, 10));
}

async function emitMany(client: pg.Client, tag: string, count: number, bytes = 1_000): Promise<void> {
  await client.query(
    `SELECT count(pg_logical_emit_message(true, '${CHANGE_PREFIX}' || 'owner-' || n % 20, $1 || n || repeat('x', $3)))
       FROM generate_series(1, $2::int) AS n`,
    [tag, count, bytes],
  );
}

async function streamedTransactions(): Promise<number> {
  const [row] = await query<{ n: string }>(
    server.url,
    `SELECT stream_txns AS n FROM pg_stat_replication_slots WHERE slot_name = 'conger'`,
  );
  return Number(row?.n ?? 0);
}

/** Sessions with large transactions, of which some are rolled back, or parts of them to a savepoint. */
async function runLarge(options: {
  seed: number;
  sessions: number;
  transactions: number;
  savepoints: boolean;
}) {
  const counts = await Promise.all(
    Array.from({ length: options.sessions }, async (_, session) => {
      const next = random(options.seed * 100 + session);
      const client = new pg.Client(server.url);
      await client.connect();
      let committed = 0;
      for (let n = 0; n < options.transactions; n++) {
        await client.query('BEGIN');
        let count = 0;
        const some = async () => {
          const more = 1 + Math.floor(next() * 600);
          await emitMany(client, `${session}.${n}.${count}.`, more);
          return more;
        };
        count += await some();
        if (options.savepoints && next() < 0.6) {
          await client.query('SAVEPOINT a');
          const inner = await some();
          await client.query('SAVEPOINT b');
          const innermost = await some();
          const dice = next();
          if (dice < 0.3) await client.query('ROLLBACK TO a');
          else if (dice < 0.6) await client.query('ROLLBACK TO b');
          count += dice < 0.3 ? 0 : dice < 0.6 ? inner : inner + innermost;
        }
        count += await some();
        const rollback = next() < 0.25;
        await client.query(rollback ? 'ROLLBACK' : 'COMMIT');
        if (!rollback) committed += count;
      }
      await client.end();
      return committed;
    }),
  );
  return counts.reduce((a, b) => a + b, 0);
}

test('large and small transactions at once come in the order of their commits, without what was rolled back', {
  timeout,
}, async () => {
  await start();
  const [large, small] = await Promise.all([
    runLarge({ seed: 1, sessions: 3, transactions: 8, savepoints: false }),
    runLoad(server.url, { sessions: 2, transactions: 60, seed: 2 }),
  ]);
  await untilAppended(server.url, large + small);
  expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
  expect(await streamedTransactions()).toBeGreaterThan(5);
});

test('savepoints that are rolled back in large transactions leave nothing, and what is around them stays', {
  timeout,
}, async () => {
  await start();
  const [large, small] = await Promise.all([
    runLarge({ seed: 3, sessions: 2, transactions: 10, savepoints: true }),
    runLoad(server.url, { sessions: 2, transactions: 60, seed: 4 }),
  ]);
  await untilAppended(server.url, large + small);
  expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
});

test('connections that break in the middle of large transactions lose and double nothing', {
  timeout,
}, async () => {
  await start();
  const next = random(9);
  let loading = true;
  const load = Promise.all([
    runLarge({ seed: 5, sessions: 3, transactions: 10, savepoints: true }),
    runLoad(server.url, { sessions: 2, transactions: 60, seed: 6 }),
  ]).finally(() => {
    loading = false;
  });
  while (loading) {
    await new Promise((resolve) => setTimeout(resolve, 100 + next() * 300));
    await query(
      server.url,
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1`,
      [next() < 0.5 ? 'conger capture conger stream' : 'conger log writer'],
    );
  }
  const [large, small] = await load;
  await untilAppended(server.url, large + small);
  expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
});

test('transactions in progress that are larger than the spool come one by one, at their commits', {
  timeout,
}, async () => {
  await start({ limit: 6_000_000 });
  const clients = await Promise.all(
    [1, 2, 3].map(async () => {
      const client = new pg.Client(server.url);
      await client.connect();
      return client;
    }),
  );
  for (const client of clients) await client.query('BEGIN');
  for (const [n, client] of clients.entries()) await emitMany(client, `${n}.`, 4_000);
  const [first] = clients;
  if (first !== undefined) await emit(first, [{ partitionKey: 'k', body: 'last' }]);
  for (const client of clients.reverse()) await client.query('COMMIT');
  await untilAppended(server.url, 12_001);
  expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
  for (const client of clients) await client.end();
});

test('a committed transaction that is larger than the spool comes in pieces, in its place', {
  timeout,
}, async () => {
  await start({ limit: 1_000_000 });
  const client = new pg.Client(server.url);
  await client.connect();
  await client.query('BEGIN');
  await emitMany(client, 'large.', 12_000);
  const [small] = await Promise.all([
    runLoad(server.url, { sessions: 2, transactions: 40, seed: 7 }),
    client.query('COMMIT'),
  ]);
  await emit(client, [{ partitionKey: 'owner-1', body: 'behind it' }]);
  await untilAppended(server.url, 12_001 + small);
  expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
  expect(told.filter((line) => /the rest has to come again/.test(line)).length).toBeGreaterThan(1);
  await client.end();
});

test.for(['commits', 'is rolled back'])(
  'large transactions come in parts again after one with a savepoint that was rolled back %s',
  { timeout },
  async (how) => {
    await start();
    const [client, other] = [new pg.Client(server.url), new pg.Client(server.url)];
    await client.connect();
    await other.connect();
    await client.query('BEGIN');
    await emitMany(client, 'before.', 500);
    await client.query('SAVEPOINT a');
    await emitMany(client, 'taken back.', 500);
    await client.query('ROLLBACK TO a');
    await emitMany(client, 'after.', 500);
    let count = 1;
    await emit(other, [{ partitionKey: 'owner-1', body: 'while it is in progress' }]);
    await untilAppended(server.url, count);
    await client.query(how === 'commits' ? 'COMMIT' : 'ROLLBACK');
    if (how === 'commits') count += 1_000;
    await untilAppended(server.url, count);
    const again = () => told.some((line) => line.includes('parts again'));
    while (!told.some((line) => line.includes('a savepoint was rolled back'))) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const before = await streamedTransactions();
    while ((await streamedTransactions()) === before) {
      await emitMany(other, `more.${count}.`, 500);
      count += 500;
      await untilAppended(server.url, count);
    }
    expect(again()).toBe(true);
    expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
    await client.end();
    await other.end();
  },
);

test('a stream that begins anew is let go of at once, also where the log takes nothing', {
  timeout,
}, async () => {
  hold = new Promise((resolve) => {
    release = resolve;
  });
  const begun = new Promise<void>((resolve) => {
    appending = resolve;
  });
  await start();
  const [client, other] = [new pg.Client(server.url), new pg.Client(server.url)];
  await client.connect();
  await other.connect();
  await emit(other, [{ partitionKey: 'owner-1', body: 'before' }]);
  await begun;
  await client.query('BEGIN');
  await emitMany(client, 'before.', 500);
  await client.query('SAVEPOINT a');
  await emitMany(client, 'taken back.', 500);
  await client.query('ROLLBACK TO a');
  await emitMany(client, 'after.', 500);
  // A checkpoint that gives the slot up would wait for who reads it.
  while ((await query(server.url, 'SELECT FROM pg_replication_slots WHERE active')).length > 0) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  release();
  await client.query('COMMIT');
  await untilAppended(server.url, 1_001);
  expect(await logLines(server.url)).toEqual(await truth.lines('conger'));
  await client.end();
  await other.end();
});
