import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { startProxy } from '../../test/fixtures/proxy.ts';
import { partitionOf } from '../change.ts';
import { createEmbeddedReader, createEmbeddedWriter } from '../log/embedded/index.ts';
import { ensureLog } from '../log/embedded/schema.ts';
import { lsnToBigint, parsePosition } from '../position.ts';
import { random } from '../testing/random.ts';
import { Seen } from '../testing/records.ts';
import { Watched } from '../testing/until.ts';
import type { LogRecord, LogWriter } from '../types.ts';
import { Capture } from './capture.ts';
import { ensureSlot } from './slot.ts';
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

const log = silentLogger();
const partitions = 4;

let server: TestPostgres;
let url: string;
let databases = 0;
let slot: string;
let cleanup: (() => Promise<unknown>)[];

beforeAll(async () => {
  server = await startPostgres();
});

afterAll(() => server?.stop());

beforeEach(async () => {
  cleanup = [];
  const name = `capture${++databases}`;
  await query(server.url, `CREATE DATABASE ${name}`);
  const own = new URL(server.url);
  own.pathname = `/${name}`;
  url = own.href;
  slot = `slot${databases}`;
  const client = new pg.Client(url);
  await client.connect();
  await ensureLog(client, partitions);
  await client.end();
});

afterEach(async () => {
  for (const step of cleanup.reverse()) await step();
  const own = new URL(server.url);
  own.pathname = `/capture${databases}`;
  await dropSlots(own.href);
});

function embedded(postgres = url): LogWriter {
  return createEmbeddedWriter({ postgres, partitions, retainMs: 2 ** 45, retainRecords: 1e6, log });
}

function bound(inner: LogWriter): LogWriter {
  return {
    open: () => inner.open(),
    append: (records) => inner.append(records),
    close: () => inner.close(),
  };
}

async function startCapture(options: { postgres?: string; writer?: () => LogWriter } = {}): Promise<Capture> {
  const postgres = options.postgres ?? url;
  const capture = new Capture({
    postgres,
    slot,
    partitions,
    openWriter: async () => options.writer?.() ?? embedded(postgres),
    log,
  });
  cleanup.push(() => capture.stop());
  await capture.start();
  return capture;
}

async function connected(): Promise<pg.Client> {
  const client = new pg.Client(url);
  await client.connect();
  cleanup.push(() => client.end());
  return client;
}

async function witness(): Promise<Witness> {
  const one = new Witness(url);
  await one.prepare();
  return one;
}

describe('the capture', { timeout: 180_000 }, () => {
  test('stamps a transaction’s changes with all that consumers rely on', async () => {
    await startCapture();
    const client = await connected();
    await client.query('BEGIN');
    const [{ xid }] = (await client.query('SELECT pg_current_xact_id()::text AS xid')).rows;
    await emit(client, [
      { partitionKey: 'owner-1', body: '{"n":1}' },
      { partitionKey: 'ünïcode', body: '{"n":"ß"}' },
    ]);
    await client.query(`SELECT pg_logical_emit_message(true, 'conger', 'no change')`);
    await emit(client, [{ partitionKey: '', body: '{"n":3}' }]);
    await client.query('COMMIT');
    await untilAppended(url, 3);

    const reader = await createEmbeddedReader({ postgres: url, partitions, log });
    cleanup.push(() => reader.close());
    const seen = new Seen();
    await reader.readAll(10, seen.take);
    const all = [...seen.byPartition.values()].flat().sort((a, b) => (a.position < b.position ? -1 : 1));
    expect(all.map((one) => [one.partitionKey, one.body.toString(), one.index, one.count, one.xid])).toEqual([
      ['owner-1', '{"n":1}', 0, 3, xid],
      ['ünïcode', '{"n":"ß"}', 1, 3, xid],
      ['', '{"n":3}', 2, 3, xid],
    ]);
    for (const one of all) {
      expect(one.partition).toBe(partitionOf(one.partitionKey, partitions));
      expect(Math.abs(one.time - Date.now())).toBeLessThan(60_000);
      expect(parsePosition(one.position)).toMatchObject({ epoch: 1, index: one.index });
    }
    expect(new Set(all.map((one) => parsePosition(one.position).lsn)).size).toBe(1);
  });

  test('the log is the commits, in their order, however many sessions there are', async () => {
    await startCapture();
    const truth = await witness();
    const count = await runLoad(url, { sessions: 8, transactions: 60, seed: 1 });
    await untilAppended(url, count);
    const lines = await logLines(url);
    expect(lines).toHaveLength(count);
    expect(lines).toEqual(await truth.lines(slot));
  });

  test('nothing is lost or doubled when appends fail, before or after they took effect', async () => {
    const next = random(11);
    let failures = 0;
    const flaky = (): LogWriter => {
      const inner = embedded();
      return {
        open: () => inner.open(),
        close: () => inner.close(),
        append: async (records: readonly LogRecord[]) => {
          const dice = next();
          if (dice < 0.1) failures++;
          if (dice < 0.05) throw new Error('before');
          await inner.append(dice > 0.95 ? records.slice(0, Math.ceil(records.length / 2)) : records);
          if (dice < 0.1 || dice > 0.95) throw new Error('after all, or a part');
        },
      };
    };
    await startCapture({ writer: flaky });
    const truth = await witness();
    let count = 0;
    // Where the machine is slow there are few appends, and large ones.
    for (let round = 0; round < 8 || failures === 0; round++) {
      count += await runLoad(url, { sessions: 4, transactions: 10, seed: 20 + round });
    }
    await untilAppended(url, count);
    expect(await logLines(url)).toEqual(await truth.lines(slot));
  });

  test('nothing is lost or doubled when its connections break, at random', async () => {
    const proxy = await startProxy(Number(new URL(url).port));
    cleanup.push(() => proxy.close());
    const proxied = new URL(url);
    proxied.port = String(proxy.port);
    const capture = await startCapture({ postgres: proxied.href });
    const standby = await startCapture();
    const truth = await witness();
    const next = random(5);
    const victims = ['seat', 'stream', 'control'].map((what) => `conger capture ${slot} ${what}`);
    victims.push('conger log writer');
    let count = 0;
    for (let round = 0; round < 12; round++) {
      const load = runLoad(url, { sessions: 4, transactions: 15, seed: 100 + round });
      if (round % 3 === 0) proxy.cut();
      else {
        await query(
          url,
          `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = $1 AND datname = current_database()`,
          [victims[Math.floor(next() * victims.length)]],
        );
      }
      count += await load;
    }
    await untilAppended(url, count);
    expect(await logLines(url)).toEqual(await truth.lines(slot));
    // One may yet be taking over from the other.
    while ([capture, standby].filter((one) => one.status.active).length !== 1) await sleep(20);
  });

  test('what is appended is visible to a new read of the primary', async () => {
    // A commit that waits for a standby that is not there is in the WAL, and decoded, and not visible.
    const alone = await startPostgres({ synchronous_standby_names: 'nobody', synchronous_commit: 'local' });
    cleanup.push(() => alone.stop());
    url = alone.url;
    const [client, reading, waiting] = [await connected(), await connected(), await connected()];
    await client.query('CREATE TABLE effect (n int)');
    const seen: { n: number; visible: boolean }[] = [];
    const watched = new Watched();
    const writer = (): LogWriter => ({
      open: async () => Array.from({ length: partitions }, () => ''),
      append: async (records) => {
        for (const one of records) {
          const n = Number(one.body.toString());
          const { rows } = await reading.query('SELECT 1 FROM effect WHERE n = $1', [n]);
          seen.push({ n, visible: rows.length === 1 });
        }
        watched.changed();
      },
      close: async () => undefined,
    });
    const capture = await startCapture({ writer });
    const commit = async (session: pg.Client, n: number, synchronous: string) => {
      await session.query(
        `BEGIN; SET LOCAL synchronous_commit = ${synchronous}; INSERT INTO effect VALUES (${n})`,
      );
      await emit(session, [{ partitionKey: 'k', body: String(n) }]);
      await session.query('COMMIT');
    };
    const [{ pid }] = (await waiting.query('SELECT pg_backend_pid() AS pid')).rows;
    const stuck = commit(waiting, 1, 'on');
    await untilTrue(`SELECT wait_event = 'SyncRep' AS yes FROM pg_stat_activity WHERE pid = ${pid}`);
    await commit(client, 2, 'local');
    await untilTrue(
      `SELECT sent_lsn >= pg_current_wal_flush_lsn() AS yes FROM pg_stat_replication
        WHERE application_name = 'conger capture ${slot} stream'`,
    );
    expect(seen).toEqual([]);
    await client.query('SELECT pg_cancel_backend($1)', [pid]);
    await stuck;
    await watched.until(() => seen.length === 2);
    expect(seen).toEqual([
      { n: 1, visible: true },
      { n: 2, visible: true },
    ]);
    await capture.stop();
  });

  test('a change that is not visible yet holds nothing up where the connection for questions goes silent', async () => {
    const alone = await startPostgres({ synchronous_standby_names: 'nobody', synchronous_commit: 'local' });
    cleanup.push(() => alone.stop());
    url = alone.url;
    const proxy = await startProxy(Number(new URL(url).port));
    cleanup.push(() => proxy.close());
    const proxied = new URL(url);
    proxied.port = String(proxy.port);
    const bodies = new Watched();
    const seen: string[] = [];
    const writer = (): LogWriter => ({
      open: async () => Array.from({ length: partitions }, () => ''),
      append: async (records) => {
        for (const one of records) seen.push(one.body.toString());
        bodies.changed();
      },
      close: async () => undefined,
    });
    const capture = await startCapture({ postgres: proxied.href, writer });
    const waiting = await connected();
    const [{ pid }] = (await waiting.query('SELECT pg_backend_pid() AS pid')).rows;
    await waiting.query('SET synchronous_commit = on');
    const stuck = emit(waiting, [{ partitionKey: 'k', body: 'in the end' }]);
    await untilTrue(
      `SELECT query LIKE '%pg_current_snapshot%' AS yes FROM pg_stat_activity
        WHERE application_name = 'conger capture ${slot} control'`,
    );
    // The stream is opened last, and goes with it.
    proxy.strand(2);
    const client = await connected();
    await client.query('SELECT pg_cancel_backend($1)', [pid]);
    await stuck;
    await bodies.until(() => seen.length === 1);
    expect(seen).toEqual(['in the end']);
    await capture.stop();
  });

  test('the slot moves on while only other tables change', async () => {
    await startCapture();
    const client = await connected();
    await client.query('CREATE TABLE other AS SELECT generate_series(1, 1000) AS n');
    const { rows } = await client.query('SELECT pg_current_wal_lsn()::text AS lsn');
    await untilTrue(
      `SELECT confirmed_flush_lsn >= '${rows[0].lsn}' AS yes FROM pg_replication_slots WHERE slot_name = '${slot}'`,
    );
  });

  test('a quiet shard holds no WAL, however much others write', async () => {
    await startCapture();
    const client = await connected();
    await client.query('CREATE TABLE other (n int)');
    const { rows } = await client.query('SELECT pg_current_wal_lsn()::text AS lsn');
    // PostgreSQL moves restart_lsn when it next notes the running transactions, each 15 s.
    for (;;) {
      await client.query('INSERT INTO other SELECT generate_series(1, 1000)');
      const [slotNow] = await query<{ moved: boolean }>(
        url,
        `SELECT restart_lsn > '${rows[0].lsn}' AS moved FROM pg_replication_slots WHERE slot_name = '${slot}'`,
      );
      if (slotNow?.moved === true) break;
      await sleep(200);
    }
  });

  test('nothing is confirmed that the log does not hold', async () => {
    let release: () => void = () => undefined;
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    let asked: () => void = () => undefined;
    const appending = new Promise<void>((resolve) => {
      asked = resolve;
    });
    const writer = () =>
      appendingAfter(embedded(), () => {
        asked();
        return held;
      });
    await startCapture({ writer });
    const client = await connected();
    await emit(client, [{ partitionKey: 'k', body: '{}' }]);
    await appending;
    const { rows } = await client.query('SELECT pg_current_wal_lsn()::text AS lsn');
    // 40 MB: far more than the capture takes in while the log stands still.
    const big = 'y'.repeat(500_000);
    for (let n = 0; n < 80; n++)
      await emit(client, [{ partitionKey: `k${n}`, body: JSON.stringify({ n, big }) }]);
    const state = await client.query(
      `SELECT s.confirmed_flush_lsn::text AS confirmed, r.sent_lsn::text AS sent, pg_current_wal_lsn()::text AS now
         FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid WHERE slot_name = $1`,
      [slot],
    );
    const { confirmed, sent, now } = state.rows[0];
    expect(lsnToBigint(confirmed)).toBeLessThan(lsnToBigint(rows[0].lsn));
    expect(lsnToBigint(sent)).toBeLessThan(lsnToBigint(now));
    release();
    await untilAppended(url, 81);
  });

  test('a standby takes over from where the first one was', async () => {
    const proxy = await startProxy(Number(new URL(url).port));
    cleanup.push(() => proxy.close());
    const proxied = new URL(url);
    proxied.port = String(proxy.port);
    const first = await startCapture({ postgres: proxied.href });
    const truth = await witness();
    const count = await runLoad(url, { sessions: 2, transactions: 20, seed: 3 });
    await untilAppended(url, count);
    const second = await startCapture();
    expect([first.status.active, second.status.active]).toEqual([true, false]);
    proxy.refuse();
    const more = await runLoad(url, { sessions: 2, transactions: 20, seed: 4 });
    await untilAppended(url, count + more);
    expect([first.status.active, second.status.active]).toEqual([false, true]);
    expect(second.status.epoch).toBe(first.status.epoch);
    expect(await logLines(url)).toEqual(await truth.lines(slot));
  });

  test('a standby holds up neither vacuum nor an index that is built concurrently', async () => {
    await startCapture();
    await startCapture();
    const client = await connected();
    await client.query('CREATE TABLE busy AS SELECT generate_series(1, 100) AS n');
    await untilTrue(
      `SELECT count(*) = 1 AS yes FROM pg_stat_activity
        WHERE application_name = 'conger capture ${slot} seat' AND wait_event_type = 'Lock'`,
    );
    await client.query('CREATE INDEX CONCURRENTLY busy_n ON busy (n)');
    const { rows } = await client.query(
      `SELECT application_name FROM pg_stat_activity
        WHERE application_name LIKE 'conger capture % seat' AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)`,
    );
    expect(rows).toEqual([]);
  });

  test('a slot that was lost begins a new epoch, and positions still increase', async () => {
    const first = await startCapture();
    const client = await connected();
    await emit(client, [{ partitionKey: 'k', body: '1' }]);
    await untilAppended(url, 1);
    await first.stop();
    await query(url, `SELECT pg_drop_replication_slot('${slot}')`);
    await emit(client, [{ partitionKey: 'k', body: 'in the gap' }]);
    const second = await startCapture();
    await emit(client, [{ partitionKey: 'k', body: '2' }]);
    await untilAppended(url, 2 + partitions);
    expect(second.status.epoch).toBe(first.status.epoch + 1);
    await second.stop();
    const third = await startCapture();
    await emit(client, [{ partitionKey: 'k', body: '3' }]);
    await untilAppended(url, 3 + partitions);
    expect(third.status.epoch).toBe(second.status.epoch);
    const rows = await query<{ key: string; body: string; partition: number; position: string }>(
      url,
      'SELECT partition_key AS key, body, partition, position FROM conger_log ORDER BY position, partition',
    );
    // The new epoch is opened once in each partition, before its changes.
    expect(rows.map((row) => (row.key === 'k' ? row.body : row.partition))).toEqual([
      '1',
      ...Array.from({ length: partitions }, (_, partition) => partition),
      '2',
      '3',
    ]);
    expect(rows.map((row) => parsePosition(row.position).epoch)).toEqual([1, 2, 2, 2, 2, 2, 2]);
  });

  test('a slot that another process makes anew while this one begins is not taken for the old one', async () => {
    const client = await connected();
    let anew = false;
    const writer = (): LogWriter => {
      const inner = embedded();
      return {
        ...bound(inner),
        open: async () => {
          // Between the look at the epoch and the beginning of the stream.
          if (!anew) {
            anew = true;
            await emit(client, [{ partitionKey: 'k', body: 'in the gap' }]);
            await client.query('SELECT pg_drop_replication_slot($1)', [slot]);
            await ensureSlot(client, slot, log);
          }
          return inner.open();
        },
      };
    };
    const capture = await startCapture({ writer });
    await untilAppended(url, partitions);
    await emit(client, [{ partitionKey: 'k', body: 'after it' }]);
    await untilAppended(url, partitions + 1);
    expect(capture.status.epoch).toBe(2);
    const rows = await query<{ position: string }>(url, 'SELECT position FROM conger_log');
    expect(rows.map((row) => parsePosition(row.position).epoch)).toEqual(Array(partitions + 1).fill(2));
  });

  test('a capture that loses its seat as it opens an epoch begins anew, also where the log takes nothing', async () => {
    const client = await connected();
    await ensureSlot(client, slot, log);
    await client.query('SELECT pg_drop_replication_slot($1)', [slot]);
    let opening: () => void = () => undefined;
    const held = new Promise<void>((resolve) => {
      opening = resolve;
    });
    let writers = 0;
    const writer = (): LogWriter => {
      const inner = embedded();
      if (writers++ > 0) return inner;
      return {
        ...bound(inner),
        append: () => {
          opening();
          return new Promise(() => {});
        },
      };
    };
    await startCapture({ writer });
    await held;
    await client.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'conger capture ${slot} seat'`,
    );
    await untilAppended(url, partitions);
    expect(writers).toBeGreaterThan(1);
  });

  test('stopping leaves everything that was appended confirmed', async () => {
    const capture = await startCapture();
    const count = await runLoad(url, { sessions: 4, transactions: 20, seed: 9 });
    await untilAppended(url, count);
    await capture.stop();
    await untilTrue(`SELECT NOT active AS yes FROM pg_replication_slots WHERE slot_name = '${slot}'`);
    expect(await new Witness(url, slot).lines(slot)).toEqual([]);
  });

  async function untilTrue(text: string): Promise<void> {
    const client = await connected();
    for (;;) {
      const { rows } = await client.query<{ yes: boolean | null }>(text);
      if (rows[0]?.yes === true) return;
      await sleep(5);
    }
  }
});
