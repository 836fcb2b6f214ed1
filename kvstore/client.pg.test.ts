import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { isCongerError } from '../runtime/errors.ts';
import { silentLogger } from '../runtime/log.ts';
import {
  type KvstoreProcess,
  spawnKvstore,
  startKvstore,
  type TestKvstore,
} from '../test/fixtures/kvstore.ts';
import { startPostgres, type TestPostgres } from '../test/fixtures/postgres.ts';
import { createKv } from './client.ts';
import type { BucketConfig, Kv, Reindexed } from './types.ts';

const log = silentLogger();
const bucket = 'client';
const config: BucketConfig = {
  index: { name: { type: 'string' }, num: { type: 'number' }, serial: { type: 'string', unique: true } },
  options: { version: 1 },
};

let postgres: TestPostgres;
let kvstore: TestKvstore;
let kv: Kv;
const kvs: Kv[] = [];

function openKv(servers: readonly string[], deadlineMs?: number): Kv {
  const opened = createKv({ servers, log, ...(deadlineMs === undefined ? {} : { deadlineMs }) });
  kvs.push(opened);
  return opened;
}

beforeAll(async () => {
  postgres = await startPostgres({ fsync: 'off' });
  kvstore = await startKvstore(postgres.url);
  kv = createKv({ servers: [kvstore.url], log });
  await kv.ensureBucket(bucket, config);
});

afterEach(async () => {
  await Promise.all(kvs.splice(0).map((each) => each.close()));
});

afterAll(async () => {
  await kv?.close();
  await kvstore?.stop();
  await postgres?.stop();
});

describe('objects', () => {
  test('put, get, tryGet, del', async () => {
    const { etag } = await kv.put(bucket, 'a', { num: 1 }, { etag: null });
    expect(await kv.get(bucket, 'a')).toEqual({
      bucket,
      key: 'a',
      value: { num: 1 },
      _etag: etag,
      _id: expect.any(Number),
      _mtime: expect.any(Number),
    });
    await expect(kv.put(bucket, 'a', { num: 2 }, { etag: null })).rejects.toMatchObject({
      code: 'EtagConflictError',
      context: { bucket, key: 'a' },
    });
    await kv.del(bucket, 'a', { etag });
    expect(await kv.tryGet(bucket, 'a')).toBeUndefined();
    await expect(kv.get(bucket, 'a')).rejects.toMatchObject({ code: 'ObjectNotFoundError' });
    await expect(kv.del(bucket, 'a')).rejects.toMatchObject({ code: 'ObjectNotFoundError' });
    await expect(kv.tryGet('nosuch', 'a')).rejects.toMatchObject({ code: 'BucketNotFoundError' });
  });

  test('find tells what it saw, and when', async () => {
    await Promise.all(Array.from({ length: 1200 }, (_, i) => kv.put(bucket, `f${i}`, { name: 'f', num: i })));
    const some = await kv.find<{ num: number }>(bucket, '(name=f)', {
      sort: { attribute: 'num', order: 'DESC' },
      limit: 2,
    });
    expect(some.objects.map((o) => o.value.num)).toEqual([1199, 1198]);
    expect(some.count).toBe(1200);
    expect(some.snapshot).toMatch(/^\d+:\d+:[\d,]*$/);
    expect(some.lsn).toMatch(/^[0-9A-F]+\/[0-9A-F]+$/);
    expect((await kv.find(bucket, '(name=f)')).objects).toHaveLength(1000);
    expect((await kv.find(bucket, '(name=f)', { noLimit: true })).objects).toHaveLength(1200);
    const none = await kv.find(bucket, '(name=nobody)');
    expect(none).toMatchObject({ objects: [], count: 0, snapshot: expect.stringMatching(/:/) });
  });

  test('a batch happens whole or not at all', async () => {
    await kv.put(bucket, 'b1', { num: 1 });
    const { etags } = await kv.batch([
      { operation: 'put', bucket, key: 'b2', value: { num: 2 }, etag: null },
      { operation: 'delete', bucket, key: 'b1' },
    ]);
    expect(etags).toEqual([(await kv.get(bucket, 'b2'))._etag, null]);
    await expect(
      kv.batch([
        { operation: 'put', bucket, key: 'b3', value: { num: 3 } },
        { operation: 'put', bucket, key: 'b2', value: { num: 4 }, etag: null },
      ]),
    ).rejects.toMatchObject({ code: 'EtagConflictError' });
    expect(await kv.tryGet(bucket, 'b3')).toBeUndefined();
    expect(await kv.batch([])).toEqual({ etags: [] });
  });

  test('what cannot be sent is refused here', async () => {
    const codes = await Promise.all(
      [
        kv.get('no-dashes', 'k'),
        kv.get(bucket, ''),
        kv.put(bucket, 'a\0b', {}),
        kv.put(bucket, 'k', [1]),
        kv.put(bucket, 'k', { big: 1n }),
        kv.find(bucket, ''),
      ].map((call) => call.catch((error: { code: string }) => error.code)),
    );
    expect(codes).toEqual([
      'InvalidBucketNameError',
      'InvocationError',
      'InvocationError',
      'InvocationError',
      'InvocationError',
      'InvalidQueryError',
    ]);
  });
});

describe('ensureBucket', () => {
  test('many processes set a bucket up at once', async () => {
    const others = Array.from({ length: 8 }, () => openKv([kvstore.url]));
    await Promise.all(others.map((each) => each.ensureBucket('raced', config)));
    const newer = { index: { ...config.index, more: { type: 'uuid' } }, options: { version: 2 } } as const;
    await Promise.all(others.map((each, i) => each.ensureBucket('raced', i % 2 ? newer : config)));
    await kv.put('raced', 'k', { more: crypto.randomUUID() });
    await expect(kv.put('raced', 'k', { more: 'no uuid' })).rejects.toMatchObject({
      code: 'InvalidIndexTypeError',
    });
  });

  test('a new index holds the objects that were there before', async () => {
    const before: BucketConfig = { index: { name: { type: 'string' } }, options: { version: 1 } };
    await kv.ensureBucket('grown', before);
    await Promise.all(Array.from({ length: 1100 }, (_, i) => kv.put('grown', `k${i}`, { num: i % 11 })));
    const others = Array.from({ length: 3 }, () => openKv([kvstore.url]));
    const progress = others.map((): Reindexed[] => []);
    await Promise.all(
      others.map((each, i) =>
        each.ensureBucket('grown', { ...config, options: { version: 2 } }, (told) => progress[i]?.push(told)),
      ),
    );
    const last = progress.flatMap((told) => told.slice(-1));
    expect(last.reduce((sum, { processed }) => sum + processed, 0)).toBe(1100);
    expect(last).toContainEqual({ bucket: 'grown', processed: expect.any(Number), remaining: 0 });
    const found = await kv.find('grown', '(num=7)', { requireIndexes: true });
    expect(found.count).toBe(100);
    expect(found.objects).toHaveLength(100);
  });

  test('hooks, and their errors', async () => {
    const post = [
      'function refuse(req, cb) { var e = new Error("no"); e.name = "Refused"; cb(req.value.bad && e); }',
    ];
    const pre = ['function mark(req, cb) { req.value.marked = true; cb(); }'];
    await kv.ensureBucket('hooked', { index: {}, pre });
    await kv.put('hooked', 'k', {});
    expect((await kv.get('hooked', 'k')).value).toEqual({ marked: true });
    await kv.ensureBucket('hooked', { index: {}, pre, post });
    await expect(kv.put('hooked', 'k', { bad: true })).rejects.toMatchObject({
      code: 'HookFailedError',
      message: 'Refused: no',
      context: { name: 'Refused', hook: 'refuse', bucket: 'hooked' },
    });
  });

  test('an older version of a service leaves the newer bucket alone', async () => {
    const newer = { index: { ...config.index, more: { type: 'number' } }, options: { version: 7 } } as const;
    await kv.ensureBucket('rolled', newer);
    await kv.put('rolled', 'k', { more: 5 });
    await kv.ensureBucket('rolled', config);
    expect((await kv.find('rolled', '(more=5)', { requireIndexes: true })).count).toBe(1);
  });
});

/** Passes bytes to a server, and can cut a connection after a request was executed, before its answer. */
class CuttingProxy {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #cut: { rpc: string; between: () => Promise<void> } | undefined;
  cuts = 0;

  constructor(upstream: number) {
    this.#server = createServer((client) => {
      const server = connect(upstream, '127.0.0.1');
      let executing: (() => Promise<void>) | undefined;
      for (const socket of [client, server]) {
        this.#sockets.add(socket);
        socket.on('error', () => {});
      }
      client.on('data', (chunk) => {
        if (this.#cut !== undefined && chunk.includes(`"name":"${this.#cut.rpc}"`)) {
          executing = this.#cut.between;
          this.#cut = undefined;
        }
        server.write(chunk);
      });
      let cut = false;
      server.on('data', (chunk) => {
        if (executing === undefined) client.write(chunk);
        else if (!cut) {
          cut = true;
          this.cuts++;
          void executing().finally(() => client.destroy());
        }
      });
      client.on('close', () => server.destroy());
      server.on('close', () => client.destroy());
    });
  }

  async listen(): Promise<string> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('no address');
    return `tcp://127.0.0.1:${address.port}`;
  }

  /** The next such request is executed; then `between` runs, and the connection breaks. */
  cutAfter(rpc: string, between: () => Promise<void> = async () => {}): void {
    this.#cut = { rpc, between };
    this.cuts = 0;
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

describe('a write that happened, but whose answer was lost', () => {
  let proxy: CuttingProxy;
  let proxied: Kv;

  beforeAll(async () => {
    proxy = new CuttingProxy(kvstore.port);
    proxied = createKv({ servers: [await proxy.listen()], log });
    await proxied.ping();
  });

  afterAll(async () => {
    await proxied.close();
    proxy.close();
  });

  test('a put with an etag succeeds, once', async () => {
    const { etag } = await kv.put(bucket, 'p', { num: 1 });
    proxy.cutAfter('putObject');
    const second = await proxied.put(bucket, 'p', { num: 2, at: new Date(0), no: undefined }, { etag });
    expect(proxy.cuts).toBe(1);
    expect(await kv.get(bucket, 'p')).toMatchObject({ _etag: second.etag, value: { num: 2 } });
  });

  test('a creation succeeds, once', async () => {
    proxy.cutAfter('putObject');
    const { etag } = await proxied.put(bucket, 'created', { serial: 's1' }, { etag: null });
    expect(proxy.cuts).toBe(1);
    expect((await kv.get(bucket, 'created'))._etag).toBe(etag);
  });

  test('a put without an etag is made again', async () => {
    proxy.cutAfter('putObject');
    await proxied.put(bucket, 'plain', { serial: 's2' });
    expect(proxy.cuts).toBe(1);
    expect((await kv.get(bucket, 'plain')).value).toEqual({ serial: 's2' });
  });

  test('a delete succeeds, once', async () => {
    const { etag } = await kv.put(bucket, 'd', { num: 1 });
    proxy.cutAfter('delObject');
    await proxied.del(bucket, 'd', { etag });
    expect(proxy.cuts).toBe(1);
    expect(await kv.tryGet(bucket, 'd')).toBeUndefined();
  });

  test('a batch succeeds, once', async () => {
    const { etag } = await kv.put(bucket, 'x', { num: 1 });
    await kv.put(bucket, 'y', { num: 1 });
    proxy.cutAfter('batch');
    const { etags } = await proxied.batch([
      { operation: 'put', bucket, key: 'x', value: { num: 2 }, etag },
      { operation: 'delete', bucket, key: 'y' },
    ]);
    expect(proxy.cuts).toBe(1);
    expect(etags).toEqual([(await kv.get(bucket, 'x'))._etag, null]);
  });

  test('and was overwritten since: the outcome is unknown, and said to be', async () => {
    const { etag } = await kv.put(bucket, 'o', { num: 1 });
    proxy.cutAfter('putObject', async () => {
      await kv.put(bucket, 'o', { num: 3 });
    });
    await expect(proxied.put(bucket, 'o', { num: 2 }, { etag })).rejects.toMatchObject({
      code: 'UnknownOutcomeError',
    });
    expect(proxy.cuts).toBe(1);
  });

  test('and was undone since, its unique value taken by another: that is a conflict', async () => {
    proxy.cutAfter('putObject', async () => {
      await kv.del(bucket, 'first');
      await kv.put(bucket, 'other', { serial: 'taken' });
    });
    await expect(proxied.put(bucket, 'first', { serial: 'taken' })).rejects.toMatchObject({
      code: 'UniqueAttributeError',
    });
  });

  test('a read is just made again', async () => {
    await kv.put(bucket, 'r', { num: 1 });
    for (const rpc of ['getObject', 'findObjects']) {
      proxy.cutAfter(rpc);
      const read = rpc === 'getObject' ? proxied.get(bucket, 'r') : proxied.find(bucket, '(num=1)');
      await read;
      expect(proxy.cuts).toBe(1);
    }
  });
});

describe('servers that come and go', () => {
  const servers: KvstoreProcess[] = [];

  afterEach(async () => {
    await Promise.all(
      servers.splice(0).map(async (server) => {
        server.child.kill('SIGCONT');
        await server.kill('SIGKILL');
      }),
    );
  });

  async function twoServers(): Promise<[KvstoreProcess, KvstoreProcess]> {
    const pair = await Promise.all([spawnKvstore(postgres.url), spawnKvstore(postgres.url)]);
    servers.push(...pair);
    return pair;
  }

  /** Breaks every connection of the servers to PostgreSQL. */
  async function breakDatabaseConnections(): Promise<void> {
    const client = new pg.Client({ connectionString: postgres.url });
    await client.connect();
    await client.query(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'conger-kvstore'",
    );
    await client.end();
  }

  test('increments are neither lost nor doubled while servers and their connections are killed', async () => {
    const pair = await twoServers();
    const each = openKv(
      pair.map((server) => server.url),
      60_000,
    );
    interface Counter {
      total: number;
      by: Record<string, number>;
    }
    const keys = ['c0', 'c1', 'c2'];
    await Promise.all(keys.map((key) => each.put(bucket, key, { total: 0, by: {} })));

    const acknowledged = new Map<string, number>();
    let running = true;
    let done = 0;
    const moreDone = async () => {
      const goal = done + 60;
      while (running && done < goal) await delay(5);
    };
    const killServer = async (index: 0 | 1) => {
      const victim = pair[index];
      await victim.kill('SIGKILL');
      // The other server serves meanwhile.
      await moreDone();
      const successor = await spawnKvstore(postgres.url, victim.port);
      servers.push(successor);
      pair[index] = successor;
    };
    const inject = async () => {
      for (const index of [0, 1, 0] as const) {
        await moreDone();
        await killServer(index);
        await moreDone();
        await breakDatabaseConnections();
      }
      await moreDone();
    };

    const worker = async (name: string, key: string) => {
      for (let mine = 0; running; ) {
        const { value, _etag } = await each.get<Counter>(bucket, key);
        const next = { total: value.total + 1, by: { ...value.by, [name]: mine + 1 } };
        try {
          await each.put(bucket, key, next, { etag: _etag });
        } catch (error) {
          if (isCongerError(error, 'EtagConflictError')) continue;
          if (!isCongerError(error, 'UnknownOutcomeError')) throw error;
          const seen = (await each.get<Counter>(bucket, key)).value.by[name] ?? 0;
          if (seen === mine) continue;
        }
        acknowledged.set(name, ++mine);
        done++;
      }
    };
    const stop = () => {
      running = false;
    };
    await Promise.all([
      inject().finally(stop),
      ...Array.from({ length: 12 }, (_, i) => worker(`w${i}`, keys[i % 3] ?? '').finally(stop)),
    ]);

    const counters = await Promise.all(keys.map((key) => each.get<Counter>(bucket, key)));
    const by = Object.assign({}, ...counters.map((counter) => counter.value.by));
    expect(by).toEqual(Object.fromEntries(acknowledged));
    for (const { value } of counters) {
      expect(Object.values(value.by).reduce((sum, n) => sum + n)).toBe(value.total);
    }
  }, 240_000);

  test('a frozen server is noticed, and its calls go elsewhere', async () => {
    const [first] = await twoServers();
    const each = openKv(
      servers.map((server) => server.url),
      50_000,
    );
    await each.put(bucket, 'frozen', { num: 1 });
    first.child.kill('SIGSTOP');
    const reads = Array.from({ length: 10 }, () => each.get<{ num: number }>(bucket, 'frozen'));
    expect((await Promise.all(reads)).map((object) => object.value.num)).toEqual(Array(10).fill(1));
  });

  test('a server that ends in peace fails no call', async () => {
    const [first, second] = await twoServers();
    const each = openKv([first.url, second.url]);
    await each.ping();
    let ended = false;
    const traffic = Array.from({ length: 8 }, async (_, i) => {
      for (let n = 0; !ended || n < 20; n++) await each.put(bucket, `t${i}`, { num: n });
    });
    await first.stop();
    expect(first.child.exitCode).toBe(0);
    ended = true;
    await Promise.all(traffic);
  });

  test('with no server there is an error, once the deadline has passed', async () => {
    const gone = await startKvstore(postgres.url);
    await gone.stop();
    const each = openKv([gone.url], 300);
    await expect(each.get(bucket, 'a')).rejects.toMatchObject({ code: 'ServiceUnavailable' });
    await expect(each.put(bucket, 'a', {})).rejects.toMatchObject({ code: 'ServiceUnavailable' });
  });

  test('a server that starts after the client is found', async () => {
    const first = await startKvstore(postgres.url);
    await first.stop();
    const each = openKv([first.url], 50_000);
    const start = async () => servers.push(await spawnKvstore(postgres.url, first.port));
    await Promise.all([each.put(bucket, 'found', { num: 1 }), start()]);
  });
});

test('a closed client refuses calls', async () => {
  const closed = createKv({ servers: [kvstore.url], log });
  await closed.ping();
  await closed.close();
  await expect(closed.get(bucket, 'a')).rejects.toMatchObject({ code: 'ServiceUnavailable' });
});

test('addresses that are not valid are refused at once', () => {
  expect(() => createKv({ servers: [], log })).toThrow('no kvstore servers');
  expect(() => createKv({ servers: ['http://127.0.0.1:1'], log })).toThrow('expected tcp://');
});
