import pg from 'pg';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { createEmbeddedWriter } from '../log/embedded/index.ts';
import { parsePosition } from '../position.ts';
import { Watched } from '../testing/until.ts';
import { Capture } from './capture.ts';
import { appendingAfter, emit, query, untilAppended, untilWalsenderWaits } from './wal.testing.ts';

const partitions = 2;

let server: TestPostgres;
let client: pg.Client;
let capture: Capture;

/** While it is set, appends wait. */
let hold: Promise<void> | undefined;
let release: () => void = () => undefined;
let appending: () => void = () => undefined;

class Lines extends Watched {
  readonly lines: { readonly level: number; readonly msg: string }[] = [];

  readonly write = (line: string): void => {
    this.lines.push(JSON.parse(line));
    this.changed();
  };
}

let told: Lines;

beforeEach(async () => {
  hold = undefined;
  told = new Lines();
  server = await startPostgres({ max_slot_wal_keep_size: '1MB', max_wal_size: '4GB' });
  client = new pg.Client(server.url);
  await client.connect();
  const log = pino({}, told);
  const embedded = () =>
    createEmbeddedWriter({
      ...{ postgres: server.url, partitions, retainMs: 2 ** 45, retainRecords: 1e6 },
      log,
    });
  capture = new Capture({
    postgres: server.url,
    slot: 'conger',
    partitions,
    openWriter: async () =>
      appendingAfter(embedded(), () => {
        appending();
        return hold;
      }),
    walBudget: 8 * 2 ** 20,
    log,
  });
  await capture.start();
  await told.until(() => told.lines.some(({ msg }) => msg === 'capturing'));
});

afterEach(async () => {
  release();
  await capture?.stop();
  await client?.end();
  await server?.stop();
});

async function change(body: string): Promise<void> {
  await emit(client, [{ partitionKey: 'k', body }]);
}

async function writeWal(megabytes: number): Promise<void> {
  await client.query('CREATE TABLE IF NOT EXISTS other (text text)');
  for (let n = 0; n < megabytes; n++) {
    await client.query(`INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 1000)`);
  }
}

async function untilStatus(status: string): Promise<void> {
  for (;;) {
    const [row] = await query(server.url, 'SELECT wal_status FROM pg_replication_slots');
    if (row?.wal_status === status) return;
    await writeWal(4);
    // When PostgreSQL gives slots up; no other one comes, with so much room for WAL.
    await client.query('CHECKPOINT');
  }
}

/** Epochs and bodies in the order of the log; an opening is told by its epoch alone. */
async function logged(): Promise<string[]> {
  const rows = await query<{ position: string; key: string; body: string }>(
    server.url,
    'SELECT position, partition_key AS key, body FROM conger_log ORDER BY position, partition',
  );
  return rows.map(({ position, key, body }) => `${parsePosition(position).epoch} ${key === 'k' ? body : ''}`);
}

test('a slot that PostgreSQL gave up while no capture ran begins a new epoch', {
  timeout: 180_000,
}, async () => {
  await change('before');
  await untilAppended(server.url, 1);
  await capture.stop();
  await change('lost');
  await untilStatus('lost');
  const again = new Capture({
    postgres: server.url,
    slot: 'conger',
    partitions,
    openWriter: async () =>
      createEmbeddedWriter({
        ...{ postgres: server.url, partitions, retainMs: 2 ** 45, retainRecords: 1e6 },
        log: pino({}, told),
      }),
    log: pino({}, told),
  });
  try {
    await again.start();
    await change('after');
    await untilAppended(server.url, 2 + partitions);
    expect(await logged()).toEqual(['1 before', '2 ', '2 ', '2 after']);
  } finally {
    await again.stop();
  }
});

test('a log that takes nothing is warned of, and when PostgreSQL then gives the slot up a new epoch begins', {
  timeout: 180_000,
}, async () => {
  hold = new Promise((resolve) => {
    release = resolve;
  });
  const begun = new Promise<void>((resolve) => {
    appending = resolve;
  });
  await change('before');
  await begun;
  await writeWal(10);
  await told.until(() => told.lines.some(({ level, msg }) => level >= 40 && msg.includes('WAL')));
  // The rest of it never comes: it is in WAL that is gone.
  const big = 'y'.repeat(500_000);
  for (let n = 0; n < 80; n++) await change(big);
  // From here on PostgreSQL can end the walsender only once the capture lets go of it.
  await untilWalsenderWaits(client);
  await untilStatus('lost');
  release();
  await told.until(() => capture.status.epoch === 2 && capture.status.active);
  await change('after');
  await untilAppended(server.url, 1 + partitions);
  // What waited to be appended is lost with the rest: the capture let go of everything before PostgreSQL did.
  expect(await logged()).toEqual(['2 ', '2 ', '2 after']);
});
