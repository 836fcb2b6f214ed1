import { createServer } from 'node:net';
import pg from 'pg';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { openPrimaryFinder } from '../../runtime/postgres/primary.ts';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { type Database, openDatabase, transaction, withClient } from './database.ts';
import { Notifications } from './notifications.ts';

let postgres: TestPostgres;
let database: Database;
let admin: pg.Client;

beforeAll(async () => {
  postgres = await startPostgres();
  database = openDatabase(postgres.url, 4, silentLogger());
  admin = new pg.Client(postgres.url);
  await admin.connect();
});

afterAll(async () => {
  await admin?.end();
  await database?.close();
  await postgres?.stop();
});

async function pidOf(client: pg.ClientBase): Promise<number> {
  const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  return rows[0]?.pid ?? 0;
}

/** Resolves once the session has ended. */
async function ended(pid: number): Promise<void> {
  const there = async () =>
    (await admin.query('SELECT FROM pg_stat_activity WHERE pid = $1', [pid])).rowCount;
  await vi.waitFor(async () => expect(await there()).toBe(0), { timeout: 50_000 });
}

async function setting(client: pg.ClientBase, name: string): Promise<string | undefined> {
  const { rows } = await client.query<{ setting: string }>('SELECT current_setting($1) AS setting', [name]);
  return rows[0]?.setting;
}

test.each(['writers', 'readers', 'streams', 'builders'] as const)(
  'PostgreSQL does not wait without end for a server: %s',
  async (name) => {
    const connections = database[name];
    await withClient(connections, async (client) => {
      expect(await setting(client, 'idle_in_transaction_session_timeout')).toBe('30s');
      if (process.platform !== 'linux') return;
      expect(await setting(client, 'tcp_user_timeout')).toBe(name === 'builders' ? '0' : '600000');
      expect(await setting(client, 'tcp_keepalives_idle')).toBe(name === 'builders' ? '3' : '10');
    });
    expect(connections.pool.options.keepAliveInitialDelayMillis).toBeGreaterThan(0);
  },
);

test('what a transaction was at when PostgreSQL ended it has not happened, and its connection is not used again', async () => {
  let pid = 0;
  const left = transaction(database.writers, async (client) => {
    pid = await pidOf(client);
    await client.query('SET LOCAL idle_in_transaction_session_timeout = 1');
    await ended(pid);
    await client.query('SELECT 1');
  });
  await expect(left).rejects.toMatchObject({ name: 'NoDatabasePeersError' });
  expect(await withClient(database.writers, pidOf)).not.toBe(pid);
});

test('a connection that is given back in a transaction is not used again', async () => {
  const pid = await withClient(database.readers, async (client) => {
    await client.query('BEGIN');
    return pidOf(client);
  });
  await ended(pid);
  expect(await withClient(database.readers, pidOf)).not.toBe(pid);
});

test('PostgreSQL does not keep notifications for a server that is stopped', async () => {
  let asked = '';
  const host = createServer((socket) => {
    socket.once('data', (startup) => {
      asked = startup.toString('latin1');
      socket.destroy();
    });
  });
  await new Promise<void>((resolve) => host.listen(0, '127.0.0.1', resolve));
  const address = host.address();
  if (address === null || typeof address === 'string') throw new Error('the host has no port');
  const finder = openPrimaryFinder(`postgresql://conger@127.0.0.1:${address.port}/conger`, silentLogger());
  const listening = new Notifications(finder, 'listens').listen('x', { hear: () => {}, lost: () => {} });
  await expect(listening).rejects.toMatchObject({ name: 'NoDatabasePeersError' });
  expect(asked).toMatch(/options\0-c tcp_user_timeout=\d+s/);
  await finder.close();
  host.close();
});
