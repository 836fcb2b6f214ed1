import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { silentLogger } from '../../../runtime/log.ts';
import { openPrimaryFinder } from '../../../runtime/postgres/primary.ts';
import { startPostgres, type TestPostgres } from '../../../test/fixtures/postgres.ts';
import { startProxy, type TcpProxy } from '../../../test/fixtures/proxy.ts';
import { Member } from '../../testing/member.ts';
import { records, Seen } from '../../testing/records.ts';
import { Watched } from '../../testing/until.ts';
import type { LogWriter } from '../../types.ts';
import { Doorbell } from './doorbell.ts';
import { createEmbeddedReader, createEmbeddedWriter } from './index.ts';
import type { Member as Listed } from './members.ts';
import { Membership } from './membership.ts';
import { LOG_CHANNEL } from './schema.ts';

/** Connections that nobody ends and that nothing comes through any more: TCP alone notices after a quarter of an hour. */

const log = silentLogger();
const partitions = 4;

let server: TestPostgres;
let proxy: TcpProxy;
let proxied: string;
let writer: LogWriter;
let cleanup: (() => Promise<unknown>)[];

beforeEach(async () => {
  cleanup = [];
  server = await startPostgres();
  cleanup.push(() => server.stop());
  proxy = await startProxy(Number(new URL(server.url).port));
  cleanup.push(() => proxy.close());
  const url = new URL(server.url);
  url.port = String(proxy.port);
  proxied = url.href;
  writer = createEmbeddedWriter({
    ...{ postgres: server.url, partitions, retainMs: 2 ** 45, retainRecords: 1e6 },
    log,
  });
  cleanup.push(() => writer.close());
  await writer.open();
});

afterEach(async () => {
  for (const step of cleanup.reverse()) await step();
});

async function admin(): Promise<pg.Client> {
  const client = new pg.Client(server.url);
  client.on('error', () => undefined);
  await client.connect();
  cleanup.push(() => client.end());
  return client;
}

test('a reader whose connections all went silent reads on over others', { timeout: 240_000 }, async () => {
  const reader = await createEmbeddedReader({ postgres: proxied, partitions, log });
  cleanup.push(() => reader.close());
  const all = records(1, 80, partitions);
  await writer.append(all.slice(0, 40));
  const seen = new Seen();
  await reader.readAll(100, seen.take);
  const member = new Member('a', partitions);
  await reader.join('group', 'a', member);
  await member.until(() => member.count === 40);
  proxy.strand();
  await writer.append(all.slice(40));
  await seen.until(() => seen.count === 80);
  await member.until(() => member.state.history.length === 80);
  for (let partition = 0; partition < partitions; partition++) {
    const expected = all.filter((each) => each.partition === partition).map(({ position }) => position);
    expect(seen.positions(partition)).toEqual(expected);
  }
});

test('a doorbell whose connection went silent is heard over another', { timeout: 240_000 }, async () => {
  const rings = new (class extends Watched {
    all: (string | undefined)[] = [];
    readonly add = (payload: string | undefined) => {
      this.all.push(payload);
      this.changed();
    };
  })();
  const doorbell = new Doorbell(openPrimaryFinder(proxied, log), [LOG_CHANNEL], log);
  cleanup.push(() => doorbell.close());
  doorbell.on(LOG_CHANNEL, rings.add);
  await doorbell.open();
  proxy.strand();
  rings.all = [];
  await writer.append(records(1, 1, partitions));
  // What was missed is to be looked for, and what comes is heard.
  await rings.until(() => rings.all.length > 0);
  expect(rings.all[0]).toBeUndefined();
  // It rings once more where it is opened anew: what came in between may have been missed as well.
  for (let n = 2; rings.all.at(-1) === undefined; n++) {
    const { length } = rings.all;
    await writer.append(records(n, 1, partitions));
    await rings.until(() => rings.all.length > length);
  }
  expect(rings.all.at(-1)).toMatch(/^\d$/);
});

test('a doorbell whose connection went silent is closed', async () => {
  const doorbell = new Doorbell(openPrimaryFinder(proxied, log), [LOG_CHANNEL], log);
  await doorbell.open();
  proxy.strand();
  await doorbell.close();
});

test('a member whose wait for another went silent learns of its death', { timeout: 240_000 }, async () => {
  const client = await admin();
  const pool = new pg.Pool({ connectionString: server.url });
  const doorbell = new Doorbell(openPrimaryFinder(server.url, log), ['conger_group'], log);
  const membership = new Membership({ postgres: proxied, pool, doorbell, log });
  cleanup.push(
    () => pool.end(),
    () => doorbell.close(),
    () => membership.close(),
  );
  await doorbell.open();
  const lists = new (class extends Watched {
    last: readonly string[] = [];
    readonly take = (living: readonly Listed[] | undefined) => {
      this.last = (living ?? []).map(({ member }) => member).toSorted();
      this.changed();
    };
  })();
  await membership.join('group', 'a', lists.take);
  await lists.until(() => lists.last.join() === 'a');
  const other = await admin();
  await other.query('CREATE VIEW conger_seat_99 AS SELECT 1 AS seat');
  await other.query('BEGIN; LOCK TABLE conger_seat_99 IN EXCLUSIVE MODE');
  const { rows } = await other.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  await client.query("INSERT INTO conger_log_member VALUES ('conger_seat_99', $1, 'group', 'b')", [
    rows[0]?.pid,
  ]);
  await client.query('NOTIFY conger_group');
  await lists.until(() => lists.last.join() === 'a,b');
  const waits = `SELECT FROM pg_locks WHERE relation = 'conger_seat_99'::regclass AND NOT granted`;
  while ((await client.query(waits)).rows.length === 0) await new Promise((go) => setTimeout(go, 5));
  // The wait's connection was opened last.
  proxy.strand(1);
  await client.query('SELECT pg_terminate_backend($1, 5000)', [rows[0]?.pid]);
  await lists.until(() => lists.last.join() === 'a');
});
