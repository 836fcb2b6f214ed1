import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { silentLogger } from '../../../runtime/log.ts';
import { startPostgres, type TestPostgres } from '../../../test/fixtures/postgres.ts';
import { startProxy } from '../../../test/fixtures/proxy.ts';
import { Member } from '../../testing/member.ts';
import { record, records, Seen, transaction } from '../../testing/records.ts';
import type { LogReader, LogWriter } from '../../types.ts';
import { createEmbeddedReader, createEmbeddedWriter } from './index.ts';
import { fetchRecords } from './rows.ts';
import { trim } from './trim.ts';

const log = silentLogger();
const partitions = 4;
const keepAll = { retainMs: 2 ** 45, retainRecords: 1_000_000 };

let server: TestPostgres;
let url: string;
let databases = 0;
let admin: pg.Client;
let cleanup: (() => Promise<unknown>)[];

beforeAll(async () => {
  server = await startPostgres();
});

afterAll(() => server?.stop());

beforeEach(async () => {
  cleanup = [];
  const root = new pg.Client(server.url);
  await root.connect();
  await root.query(`CREATE DATABASE embedded${++databases}`);
  await root.end();
  const own = new URL(server.url);
  own.pathname = `/embedded${databases}`;
  url = own.href;
  admin = new pg.Client(url);
  await admin.connect();
  cleanup.push(() => admin.end());
});

afterEach(async () => {
  for (const step of cleanup.reverse()) await step();
});

async function writer(options: Partial<typeof keepAll> = {}): Promise<LogWriter> {
  const one = createEmbeddedWriter({ postgres: url, partitions, ...keepAll, ...options, log });
  cleanup.push(() => one.close());
  return one;
}

async function reader(postgres = url): Promise<LogReader> {
  const one = await createEmbeddedReader({ postgres, partitions, log });
  cleanup.push(() => one.close());
  return one;
}

async function untilTrue(text: string): Promise<void> {
  while ((await admin.query<{ yes: boolean | null }>(text)).rows[0]?.yes !== true) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe('the embedded log', { timeout: 180_000 }, () => {
  test('trims what is old or too much, and never the last record of a partition', async () => {
    const one = await writer();
    await one.open();
    await one.append([record(1, 3), ...records(2, 300, 3).map((each) => ({ ...each, time: Date.now() }))]);
    const options = { postgres: url, partitions, log };
    expect(await trim({ ...options, fromSeq: 0, fromTime: 0 })).toBe(0);
    // Number 1 is old, and alone in its partition.
    expect(await trim({ ...options, fromSeq: 0, fromTime: Date.now() - 60_000 })).toBe(0);
    expect(await trim({ ...options, fromSeq: 202, fromTime: 0 })).toBe(200);
    expect(await trim({ ...options, fromSeq: 202, fromTime: 0 })).toBe(0);
    expect(await trim({ ...options, fromSeq: 1_000_000, fromTime: 0 })).toBe(97);
    const { rows } = await admin.query(
      'SELECT partition, count(*)::int FROM conger_log GROUP BY 1 ORDER BY 1',
    );
    expect(rows.map((row) => row.count)).toEqual([1, 1, 1, 1]);
    expect((await (await writer()).open()).every((tail) => tail !== '')).toBe(true);
  });

  test('keeps what is behind a record that it keeps, also where the clock was set back between the two', async () => {
    const one = await writer();
    await one.open();
    const now = Date.now();
    const times = [now - 7_000, now - 1_000, now - 9_000, now - 8_000, now];
    await one.append(times.map((time, i) => ({ ...record(i + 1, 0), time })));
    expect(await trim({ postgres: url, partitions, log, fromSeq: 0, fromTime: now - 5_000 })).toBe(1);
    const { rows } = await admin.query<{ time: string }>('SELECT time FROM conger_log ORDER BY position');
    expect(rows.map(({ time }) => Number(time))).toEqual(times.slice(1));
  });

  test('the writer trims as it appends', async () => {
    const one = await writer({ retainRecords: 1_000 });
    await one.open();
    const held = async () =>
      (await admin.query<{ n: number }>('SELECT count(*)::int AS n FROM conger_log')).rows[0]?.n ?? 0;
    let appended = 0;
    // A trimming that is under way is not begun anew, so how soon there is another depends on how long it takes.
    do {
      await one.append(records(1 + appended, 2_000, partitions));
      appended += 2_000;
    } while (appended < 16_000 || (await held()) > appended - 6_000);
    await one.close();
    expect(await held()).toBeGreaterThanOrEqual(1_000);
  });

  test('a log is not opened with another number of partitions', async () => {
    await (await writer()).open();
    await expect(createEmbeddedReader({ postgres: url, partitions: 5, log })).rejects.toThrow(
      /4 partitions.*5/,
    );
    const other = createEmbeddedWriter({ postgres: url, partitions: 5, ...keepAll, log });
    await expect(other.open()).rejects.toThrow(/4 partitions/);
    await other.close();
  });

  test('a log of 0.1.0, which does not say where transactions end, is read as it is', async () => {
    const one = await writer();
    await one.open();
    await one.append(transaction(1, 1, 3).slice(0, 2));
    await admin.query('ALTER TABLE conger_log DROP COLUMN last');
    const seen = new Seen();
    await (await reader()).readAll(100, seen.take);
    expect(seen.count).toBe(2);
    await one.append(transaction(2, 1, 3));
    await seen.until(() => seen.count === 5);
    expect(seen.sizes.get(1)).toEqual([2, 3]);
  });

  test('what one query reads is bounded in bytes, and what it leaves comes with the next ones', async () => {
    const one = await writer();
    await one.open();
    const body = (kilobytes: number) => JSON.stringify({ pad: 'x'.repeat(kilobytes * 1024) });
    const all = [
      ...records(1, 48, partitions).map((each) => ({ ...each, body: Buffer.from(body(700)) })),
      record(100, 1, body(6_000)),
      record(101, 1, body(1)),
      ...records(200, 1_200, partitions),
    ];
    for (let n = 0; n < all.length; n += 20) await one.append(all.slice(n, n + 20));
    const pool = new pg.Pool({ connectionString: url });
    cleanup.push(() => pool.end());
    const read = Array.from({ length: partitions }, (): string[] => []);
    for (let more = true; more; ) {
      const places = read.map((positions, partition) => ({ partition, position: positions.at(-1) ?? '' }));
      const found = await fetchRecords(pool, places);
      more = false;
      let bytes = 0;
      for (const [partition, { records, ...fetched }] of found) {
        more ||= fetched.more;
        read[partition]?.push(...records.map(({ position }) => position));
        if (records.length > 1) for (const { body } of records) bytes += body.length;
        const left =
          all.filter((each) => each.partition === partition).length > (read[partition]?.length ?? 0);
        expect(fetched.more).toBe(left);
      }
      expect(bytes).toBeLessThanOrEqual(4 * 1024 * 1024);
    }
    for (const [partition, positions] of read.entries()) {
      const expected = all.filter((each) => each.partition === partition).map(({ position }) => position);
      expect(positions).toEqual(expected);
    }
    const seen = new Seen();
    await (await reader()).readAll(10_000, seen.take);
    for (const [partition, positions] of read.entries()) expect(seen.positions(partition)).toEqual(positions);
  });

  test('a query that was planned while the log was short reads no more of a long one', async () => {
    const one = await writer();
    await one.open();
    const options = '-c plan_cache_mode=force_generic_plan';
    const pool = new pg.Pool({ connectionString: url, max: 1, options });
    cleanup.push(() => pool.end());
    await fetchRecords(pool, [{ partition: 0, position: '' }]);
    const all = records(1, 12_000, partitions);
    await one.append(all);
    const [place, last] = all.filter(({ partition }) => partition === 0).slice(-2);
    const found = await fetchRecords(pool, [{ partition: 0, position: place?.position ?? '' }]);
    expect(found.get(0)?.records.map(({ position }) => position)).toEqual([last?.position]);
    const { rows } = await pool.query(
      `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE "conger-log-fetch" ('{0}', '{${place?.position}}', 1000000)`,
    );
    expect(rows[0]['QUERY PLAN'][0].Plan['Shared Hit Blocks']).toBeLessThan(30);
  });

  test('who stood before the first records of a partition, and was away until these were gone, is told', async () => {
    const one = await writer();
    await one.open();
    const proxy = await startProxy(Number(new URL(url).port));
    cleanup.push(() => proxy.close());
    const proxied = new URL(url);
    proxied.port = String(proxy.port);
    const far = await reader(proxied.href);
    const seen = new Seen();
    const gaps: { partition: number; after: number }[] = [];
    await far.readAll(100, seen.take, (partition) => {
      gaps.push({ partition, after: seen.positions(partition).length });
    });
    proxy.refuse();
    const all = records(1, 40, partitions);
    await one.append(all);
    await trim({ postgres: url, partitions, fromSeq: 21, fromTime: 0, log });
    proxy.heal();
    await seen.until(() => seen.count === 20);
    expect(gaps.toSorted((a, b) => a.partition - b.partition)).toEqual(
      [0, 1, 2, 3].map((partition) => ({ partition, after: 0 })),
    );
    // Who comes now has missed nothing, be it of what is left or of a log that was emptied.
    const told: number[] = [];
    const fresh = new Seen();
    await (await reader()).readAll(100, fresh.take, (partition) => void told.push(partition));
    await admin.query('TRUNCATE conger_log');
    const late = new Seen();
    await (await reader()).readAll(100, late.take, (partition) => void told.push(partition));
    await one.append(records(41, 8, partitions));
    await late.until(() => late.count === 8);
    await fresh.until(() => fresh.count === 28);
    expect(told.toSorted()).toEqual([0, 1, 2, 3]);
  });

  test('a writer that was taken over is refused', async () => {
    const [old, young] = [await writer(), await writer()];
    await old.open();
    await young.open();
    await expect(old.append(records(1, 4, partitions))).rejects.toThrow();
    const { rows } = await admin.query('SELECT count(*)::int AS n FROM conger_log');
    expect(rows[0].n).toBe(0);
  });

  test('behind an append that failed nothing is appended until the log is opened again', async () => {
    const one = await writer();
    await one.open();
    const all = records(1, 12, partitions);
    await Promise.all([one.append(all.slice(0, 4)), one.append(all.slice(4, 8))]);
    const twice = one.append(all.slice(4, 8));
    const behind = one.append(all.slice(8));
    await expect(twice).rejects.toMatchObject({ code: '23505' });
    await expect(behind).rejects.toMatchObject({ code: '23505' });
    await expect(one.append(all.slice(8))).rejects.toMatchObject({ code: '23505' });
    const { rows } = await admin.query('SELECT body FROM conger_log ORDER BY seq');
    expect(rows.map(({ body }) => body)).toEqual(all.slice(0, 8).map(({ body }) => body.toString()));
    const tails = await one.open();
    expect([...tails].sort()).toEqual(all.slice(4, 8).map(({ position }) => position));
    await one.append(all.slice(8));
  });

  test('an append of a writer of an earlier generation does nothing, even on a connection that lives', async () => {
    const old = await writer();
    await old.open();
    await admin.query('UPDATE conger_log_writer SET generation = generation + 1');
    await expect(old.append(records(1, 4, partitions))).rejects.toMatchObject({ code: 'CGF01' });
    await old.open();
    await old.append(records(1, 4, partitions));
  });

  test('a predecessor that stopped in mid-append does not hold up the next writer', async () => {
    await (await writer()).open();
    const stuck = new pg.Client({ connectionString: url, application_name: 'conger log writer' });
    stuck.on('error', () => undefined);
    await stuck.connect();
    await stuck.query('BEGIN');
    await stuck.query('SELECT conger_log_fence(generation) FROM conger_log_writer');
    const next = await writer();
    await next.open();
    await next.append(records(1, 4, partitions));
  });

  test('everyone finds back when PostgreSQL crashes', async () => {
    const one = await writer();
    await one.open();
    const all = records(1, 400, partitions);
    const seen = new Seen();
    await (await reader()).readAll(1_000, seen.take);
    const member = new Member('a', partitions);
    await (await reader()).join('group', 'a', member);
    await member.until(() => member.owned.size === partitions);
    await one.append(all.slice(0, 200));
    await member.until(() => member.count === 200);

    const victim = new pg.Client(url);
    victim.on('error', () => undefined);
    await victim.connect();
    const { rows } = await victim.query('SELECT pg_backend_pid() AS pid');
    // Another connection, whose end shows that PostgreSQL has noticed.
    const gone = new Promise((resolve) => admin.once('end', resolve));
    admin.on('error', () => undefined);
    // A backend that dies like this takes all of PostgreSQL down with it, and it recovers.
    process.kill(rows[0].pid, 'SIGKILL');
    await gone;
    for (;;) {
      const next = await writer();
      const up = await next.open().then(
        () => true,
        () => false,
      );
      if (up) {
        await next.append(all.slice(200));
        break;
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    admin = new pg.Client(url);
    await admin.connect();
    await seen.until(() => seen.count === all.length);
    await member.until(() => member.state.history.length === all.length);
    for (let p = 0; p < partitions; p++) {
      const expected = all.filter((each) => each.partition === p).map((each) => each.position);
      expect(seen.positions(p)).toEqual(expected);
      expect(
        member.state.history.filter((each) => each.partition === p).map((each) => each.position),
      ).toEqual(expected);
    }
  });

  test('all learn of a death that nobody waited for', async () => {
    const state = { cursors: new Map(), history: [] };
    const [a, b] = ['a', 'b'].map((name) => new Member(name, partitions, state));
    if (a === undefined || b === undefined) throw new Error('there are two');
    for (const member of [a, b]) await (await reader()).join('group', member.name, member);
    const third = new pg.Client({ connectionString: url });
    third.on('error', () => undefined);
    await third.connect();
    await third.query('CREATE VIEW conger_seat_99 AS SELECT 1 AS seat');
    await third.query('BEGIN; LOCK TABLE conger_seat_99 IN EXCLUSIVE MODE');
    const { rows } = await third.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
    const pid = rows[0]?.pid;
    await admin.query("INSERT INTO conger_log_member VALUES ('conger_seat_99', $1, 'group', 'z')", [pid]);
    await admin.query('NOTIFY conger_group');
    await a.until(() => a.owned.has(3));
    await b.until(() => b.owned.size === 1);
    const waiting = `SELECT l.pid FROM pg_locks l WHERE relation = 'conger_seat_99'::regclass AND NOT granted`;
    await untilTrue(`SELECT EXISTS (${waiting}) AS yes`);
    // The one who waits for it loses its connection, and it dies before there is another.
    await admin.query(`SELECT pg_terminate_backend(pid, 5000) FROM (${waiting}) AS w`);
    await admin.query('SELECT pg_terminate_backend($1, 5000)', [pid]);
    await Promise.all([a, b].map((member) => member.until(() => member.owned.size === partitions / 2)));
  });

  test('waiting members keep no snapshot, and leave no backend behind when they die', async () => {
    const members: { member: Member; refuse: () => void }[] = [];
    for (const name of ['a', 'b', 'c']) {
      const proxy = await startProxy(Number(new URL(url).port));
      cleanup.push(() => proxy.close());
      const proxied = new URL(url);
      proxied.port = String(proxy.port);
      const member = new Member(name, partitions);
      await (await reader(proxied.href)).join('group', name, member);
      members.push({ member, refuse: () => proxy.refuse() });
    }
    const watching = (n: number) =>
      `SELECT count(*) = ${n} AS yes FROM pg_stat_activity WHERE datname = current_database()
         AND application_name = 'conger log watch' AND wait_event_type = 'Lock'`;
    await untilTrue(watching(3));
    await admin.query('CREATE TABLE busy (n int)');
    await admin.query('CREATE INDEX CONCURRENTLY busy_n ON busy (n)');
    members[0]?.refuse();
    members[1]?.refuse();
    const last = members[2]?.member;
    await last?.until(() => last.owned.size === partitions);
    await untilTrue(watching(0));
    await untilTrue(`SELECT array_agg(member) = '{c}' AS yes FROM conger_log_member`);
  });
});
