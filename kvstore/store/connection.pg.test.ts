import { connect, createServer, type Server, type Socket } from 'node:net';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { createStore } from './index.ts';
import { openTestStore, type TestStore } from './testing.ts';

/** What becomes of a chunk on its way to PostgreSQL: it passes; it is lost, and the connection; only its answer is. */
type Fate = 'pass' | 'lost' | 'unanswered';

let postgres: TestPostgres;
let proxy: Server;
let url: string;
let store: TestStore;
let direct: TestStore;
let fate: (chunk: string) => Fate = () => 'pass';
let refuse = false;
const sockets = new Set<Socket>();

function relay(client: Socket, port: number): void {
  if (refuse) {
    client.destroy();
    return;
  }
  const server = connect(port, '127.0.0.1');
  const end = () => {
    client.destroy();
    server.destroy();
  };
  let deaf = false;
  for (const socket of [client, server]) {
    sockets.add(socket);
    socket.on('error', end);
    socket.on('close', () => {
      sockets.delete(socket);
      end();
    });
  }
  client.on('data', (chunk) => {
    const outcome = fate(chunk.toString('latin1'));
    if (outcome === 'lost') return end();
    if (outcome === 'unanswered') deaf = true;
    server.write(chunk);
  });
  server.on('data', (chunk) => {
    if (deaf) end();
    else client.write(chunk);
  });
}

beforeAll(async () => {
  postgres = await startPostgres();
  const target = new URL(postgres.url);
  const port = Number(target.port);
  proxy = createServer((client) => relay(client, port));
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  const address = proxy.address();
  if (address === null || typeof address === 'string') throw new Error('the proxy has no port');
  target.port = String(address.port);
  url = target.href;
  store = await openTestStore(url);
  direct = await openTestStore(postgres.url);
  await store.call('createBucket', 'b', { index: { n: { type: 'number' } } }, {});
});

afterEach(() => {
  fate = () => 'pass';
  refuse = false;
});

afterAll(async () => {
  await Promise.all([store?.store.close(), direct?.store.close()]);
  for (const socket of sockets) socket.destroy();
  proxy?.close();
  await postgres?.stop();
});

function cut(marker: string, how: Fate): void {
  fate = (chunk) => (chunk.includes(marker) ? how : 'pass');
}

const unknown = expect.objectContaining({ name: 'UnknownOutcomeError' });
const noPeers = expect.objectContaining({ name: 'NoDatabasePeersError' });

test('a put whose answer is lost has an unknown outcome, and has happened', async () => {
  cut('answer-lost', 'unanswered');
  await expect(store.call('putObject', 'b', 'answer-lost', { n: 1 }, {})).rejects.toEqual(unknown);
  fate = () => 'pass';
  expect((await store.first('getObject', 'b', 'answer-lost', {})).value).toEqual({ n: 1 });
});

test('a put that is lost on its way has an unknown outcome too, with all of its group', async () => {
  cut('query-lost', 'lost');
  const tries = await Promise.allSettled(
    ['query-lost', 'neighbour'].map((key) => store.call('putObject', 'b', key, { n: 1 }, {})),
  );
  for (const t of tries) expect(t).toMatchObject({ status: 'rejected', reason: unknown });
  fate = () => 'pass';
  await expect(direct.call('getObject', 'b', 'query-lost', {})).rejects.toMatchObject({
    name: 'ObjectNotFoundError',
  });
});

test('a batch of several statements that breaks before its commit has not happened; one that breaks at it may have', async () => {
  const requests = (key: string) => [1, 2].map((n) => ({ bucket: 'b', key, value: { n } }));
  cut('batch-lost', 'unanswered');
  await expect(store.call('batch', requests('batch-lost'), {})).rejects.toEqual(noPeers);
  cut('COMMIT', 'unanswered');
  await expect(store.call('batch', requests('commit-lost'), {})).rejects.toEqual(unknown);
  fate = () => 'pass';
  await expect(direct.call('getObject', 'b', 'batch-lost', {})).rejects.toMatchObject({
    name: 'ObjectNotFoundError',
  });
  await direct.call('getObject', 'b', 'commit-lost', {});
});

test('a batch of one statement whose answer is lost has an unknown outcome, and is not made a second time', async () => {
  cut('alone-lost', 'unanswered');
  const requests = ['alone-lost', 'neighbour'].map((key) => ({ bucket: 'b', key, value: { n: 2 } }));
  await expect(store.call('batch', requests, {})).rejects.toEqual(unknown);
  fate = () => 'pass';
  expect((await direct.first('getObject', 'b', 'alone-lost', {})).value).toEqual({ n: 2 });
});

test('a read whose connection breaks may be made again', async () => {
  cut('read-lost', 'unanswered');
  await expect(store.call('getObject', 'b', 'read-lost', {})).rejects.toEqual(noPeers);
  await expect(store.call('findObjects', 'b', '(_key=read-lost)', {})).rejects.toEqual(noPeers);
  fate = () => 'pass';
  expect(await store.call('findObjects', 'b', '(_key=read-lost)', {})).toEqual([]);
});

test('while PostgreSQL is away calls say so, and when it is back they work', async () => {
  refuse = true;
  for (const socket of sockets) socket.destroy();
  await expect(store.store.ping()).rejects.toEqual(noPeers);
  await expect(store.call('putObject', 'b', 'away', { n: 1 }, {})).rejects.toEqual(
    expect.objectContaining({ name: expect.stringMatching(/^(NoDatabasePeers|UnknownOutcome)Error$/) }),
  );
  await expect(createStore({ url, poolSize: 2, log: silentLogger(), sql: false })).rejects.toEqual(noPeers);
  refuse = false;
  await store.store.ping();
  await store.call('putObject', 'b', 'back', { n: 1 }, {});
});

test('a backend that is ended in mid-write has an unknown outcome', async () => {
  const client = new pg.Client(postgres.url);
  await client.connect();
  await client.query('BEGIN');
  await client.query(
    `INSERT INTO kv.b (_key, _value, _etag, _mtime, _pkey) VALUES ('held', '{}', 'x', 0, 'held')`,
  );
  const put = store.call('putObject', 'b', 'held', { n: 1 }, {});
  const refused = expect(put).rejects.toEqual(unknown);
  const blocked = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'conger-kvstore'`;
  const watcher = new pg.Client(postgres.url);
  await watcher.connect();
  while ((await watcher.query(blocked)).rowCount === 0);
  await refused;
  await client.query('ROLLBACK');
  await Promise.all([client.end(), watcher.end()]);
  await store.call('putObject', 'b', 'held', { n: 2 }, {});
});

test('a primary that has become a standby takes no writes, and its connections are dropped', async () => {
  const client = new pg.Client(postgres.url);
  await client.connect();
  // Its connections for writes are opened by the first write.
  const standby = await openTestStore(postgres.url, { poolSize: 2 });
  await client.query('ALTER DATABASE conger SET default_transaction_read_only = on');
  await expect(standby.call('putObject', 'b', 'k', { n: 1 }, {})).rejects.toEqual(noPeers);
  const requests = [1, 2].map((n) => ({ bucket: 'b', key: 'k', value: { n } }));
  await expect(standby.call('batch', requests, {})).rejects.toEqual(noPeers);
  await client.query('SET default_transaction_read_only = off');
  await client.query('ALTER DATABASE conger RESET default_transaction_read_only');
  await client.end();
  await standby.call('putObject', 'b', 'k', { n: 1 }, {});
  await standby.store.close();
});
