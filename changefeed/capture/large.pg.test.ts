import { readFile } from 'node:fs/promises';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { CHANGE_PREFIX } from './assembler.ts';
import { type CaptureProcess, end, isActive, spawnCapture, untilActive } from './processes.testing.ts';
import { query, runLoad, untilAppended } from './wal.testing.ts';

/** CONGER_TEST_LARGE=1000000 is the promise; what is said of memory does not depend on it. */
const changes = Number(process.env.CONGER_TEST_LARGE ?? 100_000);
const bytes = 1_000;
/** The changes are 100 MB at least, and several times that as objects. */
const growthMb = 150;

let server: TestPostgres;
let processes: CaptureProcess[];

beforeEach(async () => {
  processes = [];
  server = await startPostgres();
});

afterEach(async () => {
  await Promise.all(processes.map((one) => end(one, 'SIGTERM')));
  await server?.stop();
});

async function spawn(env: Readonly<Record<string, string>> = {}): Promise<CaptureProcess> {
  const one = await spawnCapture(server.url, { CONGER_LOG_RETAIN_RECORDS: '100000000', ...env });
  processes.push(one);
  return one;
}

/** Megabytes: resident now (VmRSS), or at most so far (VmHWM). */
async function memory({ child }: CaptureProcess, what: 'VmRSS' | 'VmHWM'): Promise<number> {
  const status = await readFile(`/proc/${child.pid}/status`, 'utf8');
  return Number(new RegExp(`${what}:\\s+(\\d+) kB`).exec(status)?.[1]) / 1024;
}

/** One transaction; answers its id when it is committed. */
async function emitLarge(): Promise<string> {
  const client = new pg.Client(server.url);
  await client.connect();
  await client.query('BEGIN');
  const { rows } = await client.query<{ xid: string }>('SELECT pg_current_xact_id()::text AS xid');
  await client.query(
    `SELECT count(pg_logical_emit_message(true, '${CHANGE_PREFIX}' || 'owner-' || n % 20,
              '{"n":' || n || ',"pad":"' || repeat('x', ${bytes}) || '"}'))
       FROM generate_series(0, ${changes} - 1) AS n`,
  );
  await client.query('COMMIT');
  await client.end();
  return rows[0]?.xid ?? '';
}

/** Resolves once everything that is committed now is in the log. Counting the log meanwhile would take its time. */
async function untilConfirmed(): Promise<void> {
  const client = new pg.Client(server.url);
  await client.connect();
  const { rows } = await client.query('SELECT pg_current_wal_insert_lsn()::text AS lsn');
  const confirmed = `SELECT confirmed_flush_lsn >= '${rows[0].lsn}' AS yes FROM pg_replication_slots`;
  while ((await client.query(confirmed)).rows[0]?.yes !== true) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await client.end();
}

/** That the log has the transaction once, in order, and in each partition in one piece. */
async function expectWhole(xid: string): Promise<void> {
  const [row] = await query(
    server.url,
    `SELECT count(*)::int AS count,
            count(*) FILTER (WHERE (body::json->>'n')::int <> idx OR cnt <> ${changes})::int AS wrong,
            count(*) FILTER (WHERE before > idx)::int AS disordered,
            count(*) FILTER (WHERE before IS NULL)::int AS pieces,
            count(DISTINCT partition)::int AS partitions
       FROM (SELECT *, lag(CASE WHEN xid = ${xid} THEN idx END) OVER (PARTITION BY partition ORDER BY seq) AS before
               FROM conger_log) AS l
      WHERE xid = ${xid}`,
  );
  expect(row).toEqual({
    count: changes,
    wrong: 0,
    disordered: 0,
    pieces: row?.partitions,
    partitions: row?.partitions,
  });
}

test('a transaction of very many changes takes no memory', { timeout: 600_000 }, async () => {
  const one = await spawn();
  await untilActive(one, true);
  const warm = await runLoad(server.url, { sessions: 4, transactions: 50, seed: 1 });
  await untilAppended(server.url, warm);
  const before = await memory(one, 'VmRSS');
  const start = performance.now();
  const [xid] = await Promise.all([
    emitLarge(),
    runLoad(server.url, { sessions: 2, transactions: 100, seed: 2 }),
  ]);
  const committed = performance.now();
  await untilConfirmed();
  const done = performance.now();
  const most = await memory(one, 'VmHWM');
  const seconds = (ms: number) => (ms / 1000).toFixed(1);
  console.info(
    `${changes} changes: ${seconds(committed - start)} s to commit, in the log ${seconds(done - committed)} s later; ` +
      `memory ${Math.round(before)} MB before, ${Math.round(most)} MB at most`,
  );
  await expectWhole(xid);
  expect(most - before).toBeLessThan(growthMb);
});

test('a capture that is killed in the middle of a large transaction is taken over in the middle', {
  timeout: 600_000,
}, async () => {
  const first = await spawn({ CONGER_FAILPOINTS: 'capture.append.before=delay:600000@5' });
  await untilActive(first, true);
  const second = await spawn();
  const xid = await emitLarge();
  await untilAppended(server.url, 1);
  await end(first, 'SIGKILL');
  const [left] = await query(server.url, 'SELECT count(*)::int AS there FROM conger_log');
  expect(left?.there).toBeLessThan(changes);
  await untilConfirmed();
  await expectWhole(xid);
  expect(await memory(second, 'VmHWM')).toBeLessThan(300);
});

test('a transaction larger than the spool takes no memory and as many pieces as it needs, also when captures are killed', {
  timeout: 600_000,
}, async () => {
  const small = { CONGER_CAPTURE_SPOOL_MB: '16' };
  const [first, second, third] = [await spawn(small), await spawn(small), await spawn(small)];
  const behind = async (one: CaptureProcess, count: number) => {
    await untilAppended(server.url, count);
    await end(one, 'SIGKILL');
  };
  await untilActive(first, true);
  const xid = await emitLarge();
  await runLoad(server.url, { sessions: 2, transactions: 50, seed: 3 });
  await behind(first, changes / 10);
  while (!(await isActive(second)) && !(await isActive(third))) await new Promise((r) => setTimeout(r, 10));
  const [next, last] = (await isActive(second)) ? [second, third] : [third, second];
  await behind(next, changes / 2);
  await untilConfirmed();
  await expectWhole(xid);
  expect(await memory(last, 'VmHWM')).toBeLessThan(300);
});
