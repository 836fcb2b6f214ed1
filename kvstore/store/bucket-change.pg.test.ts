import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { spawnKvstore } from '../../test/fixtures/kvstore.ts';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { FastConnection } from '../fast/connection.ts';
import { abandonChange, completeChange } from './bucket-change.ts';
import { openTestStore, type TestStore } from './testing.ts';
import { Messages } from './testing-messages.ts';

let postgres: TestPostgres;
let one: TestStore;
let two: TestStore;
let sql: pg.Client;

/** For what comes in its own time; the tests' own is above it. */
const patience = { timeout: 50_000, interval: 20 };
vi.setConfig({ testTimeout: 120_000 });

beforeAll(async () => {
  postgres = await startPostgres({ fsync: 'off' });
  [one, two] = await Promise.all([openTestStore(postgres.url), openTestStore(postgres.url)]);
  sql = await connect(postgres.url);
});

afterAll(async () => {
  await sql?.end();
  await Promise.all([one?.store.close(), two?.store.close()]);
  await postgres?.stop();
});

async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client(url);
  await client.connect();
  return client;
}

const a = { a: { type: 'string' } };
const abc = { ...a, b: { type: 'number', unique: true }, c: { type: '[string]' } };

/** A bucket with an index on `a`, and `count` objects k1, k2, ...: too large to be indexed while it is locked. */
async function createFull(client: pg.Client, store: TestStore, name: string, count: number): Promise<void> {
  await store.call('createBucket', name, { index: a, options: { version: 1 } }, {});
  await client.query(
    `INSERT INTO kv.${name} (_key, _value, _etag, _mtime, _rver, _pkey, a)
     SELECT 'k' || i, json_build_object('a', 'x' || i, 'b', i, 'c', array['c' || i % 10], 'fill', repeat('f', 400)),
       'E' || i, 0, 1, 'k' || i, 'x' || i FROM generate_series(1, $1::integer) i`,
    [count],
  );
}

/** While it is open no build ends: it waits for this snapshot. */
async function openSnapshot(url: string): Promise<pg.Client> {
  const client = await connect(url);
  await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
  return client;
}

async function buildWaits(client: pg.Client): Promise<number> {
  return vi.waitFor(async () => {
    const { rows } = await client.query<{ pid: number }>(
      `SELECT pid FROM pg_stat_progress_create_index
         WHERE phase LIKE 'waiting for old snapshots' AND datname = current_database()`,
    );
    const pid = rows[0]?.pid;
    if (pid === undefined) throw new Error('no build waits');
    return pid;
  }, patience);
}

async function indexes(client: pg.Client, name: string): Promise<string[]> {
  const { rows } = await client.query<{ name: string }>(
    `SELECT c.relname || CASE WHEN i.indisvalid THEN '' ELSE ' (invalid)' END AS name
     FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = $1::regclass ORDER BY 1`,
    [`kv.${name}`],
  );
  return rows.map((row) => row.name);
}

async function columns(client: pg.Client, name: string): Promise<string[]> {
  const { rows } = await client.query<{ name: string }>(
    `SELECT attname::text AS name FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped
       AND attname NOT LIKE '\\_%' ORDER BY 1`,
    [`kv.${name}`],
  );
  return rows.map((row) => row.name);
}

async function reindexAll(store: TestStore, name: string, count: number): Promise<number> {
  for (let sum = 0; ; ) {
    const { processed } = await store.first('reindexObjects', name, count, {});
    if (processed === 0) return sum;
    sum += processed;
  }
}

/** How many objects have a column that is not what their value says. */
async function wrong(client: pg.Client, name: string): Promise<number> {
  const { rows } = await client.query(
    `SELECT count(*)::integer AS wrong FROM kv.${name} WHERE a IS DISTINCT FROM _value::json->>'a'
       OR b IS DISTINCT FROM (_value::json->>'b')::numeric OR c[1] IS DISTINCT FROM _value::json->'c'->>0`,
  );
  return rows[0]?.wrong;
}

test('writers go on while indexes are built through another server, and wait for none of it', async () => {
  const objects = 60_000;
  await createFull(sql, one, 'big', objects);
  let running = true;
  onTestFinished(() => {
    running = false;
  });
  const pauses: number[] = [];
  let next = 1_000_000;
  const writer = async (store: TestStore) => {
    while (running) {
      const i = next++ % 2 === 0 ? next++ : 1 + Math.floor(Math.random() * objects);
      const started = performance.now();
      await store.call('putObject', 'big', `k${i}`, { a: `x${i}`, b: i, c: ['new'] }, {});
      pauses.push(performance.now() - started);
    }
  };
  const behindBuilds: unknown[] = [];
  const unlimited: unknown[] = [];
  const requested = new Set<string>();
  let longestRequestMs = 0;
  const sampler = async () => {
    const watch = await connect(postgres.url);
    while (running) {
      const blocked = await watch.query(
        `SELECT w.query FROM pg_stat_activity w, unnest(pg_blocking_pids(w.pid)) b JOIN pg_stat_activity c ON c.pid = b
         WHERE c.query LIKE '%CREATE%INDEX%' AND w.query NOT LIKE '%INDEX%'`,
      );
      behindBuilds.push(...blocked.rows);
      const requests = await watch.query(
        `SELECT pid, waitstart::text AS since, extract(epoch FROM clock_timestamp() - waitstart) * 1000 AS ms FROM pg_locks
         WHERE waitstart IS NOT NULL AND mode = 'AccessExclusiveLock' AND relation = 'kv.big'::regclass`,
      );
      for (const { pid, since, ms } of requests.rows) {
        requested.add(since);
        longestRequestMs = Math.max(longestRequestMs, Number(ms));
        const waits = await watch.query(
          `SELECT query FROM pg_stat_activity
           WHERE pid = $1 AND query_start <= $2 AND query NOT LIKE '%SET LOCAL lock_timeout = 50;%'`,
          [pid, since],
        );
        unlimited.push(...waits.rows);
      }
      await delay(5);
    }
    await watch.end();
  };
  const loops = [sampler(), ...[one, one, one, one, two, two, two, two].map(writer)];
  await vi.waitFor(() => expect(pauses.length).toBeGreaterThan(50), patience);
  const guest = await connect(postgres.url);
  await guest.query('BEGIN; LOCK TABLE kv.big IN ROW EXCLUSIVE MODE');
  const updated = two.call('updateBucket', 'big', { index: abc, options: { version: 2 } }, {});
  // While somebody stays at the table the lock that all wait behind is asked for again and again, and they go on.
  await vi.waitFor(() => expect(requested.size).toBeGreaterThan(2), patience);
  const before = pauses.length;
  await vi.waitFor(() => expect(pauses.length).toBeGreaterThan(before + 20), patience);
  await guest.end();
  await updated;
  expect(await indexes(sql, 'big')).toEqual(
    ['a', '_id', '_key', 'b', 'c'].map((f) => expectedIndex('big', f)).sort(),
  );
  running = false;
  await Promise.all(loops);
  expect(behindBuilds).toEqual([]);
  // By PostgreSQL, after 50 ms, whatever its server is at.
  expect(unlimited).toEqual([]);
  const [longestPut, longestRequest] = [Math.max(...pauses), longestRequestMs].map(Math.round);
  console.log(
    `${pauses.length} puts, the longest ${longestPut} ms; ${longestRequest} ms for the lock at most`,
  );

  await Promise.all([reindexAll(one, 'big', 5000), reindexAll(two, 'big', 5000)]);
  expect(await wrong(sql, 'big')).toBe(0);
  const [found] = await two.call('findObjects', 'big', `(b=${objects})`, {});
  expect(found).toMatchObject({ key: `k${objects}`, value: { b: objects } });
  await expect(one.call('putObject', 'big', 'twice', { b: objects }, {})).rejects.toMatchObject({
    name: 'UniqueAttributeError',
    context: { attribute: 'b', value: String(objects) },
  });
}, 240_000);

function expectedIndex(bucket: string, field: string): string {
  const kinds: Record<string, string> = { a: 'a.btree', b: 'b.unique', c: 'c.gin' };
  return `${bucket}.${kinds[field] ?? field}`;
}

describe('while the indexes are being built', () => {
  test('the bucket is what it was, and takes what does not fit the fields that are coming', async () => {
    await createFull(sql, one, 'during', 3000);
    const snapshot = await openSnapshot(postgres.url);
    const index = { a: { type: 'ip' }, b: { type: 'number' } };
    const updated = one.call('updateBucket', 'during', { index, options: { version: 2 } }, {});
    await buildWaits(sql);
    expect(await two.first('getBucket', {}, 'during')).toMatchObject({
      index: JSON.stringify(a),
      options: '{"version":1}',
    });
    expect(await columns(sql, 'during')).toEqual(['a', 'a.next', 'b.next']);
    await two.call('putObject', 'during', 'new', { a: 'no address', b: 'nor this' }, {});
    await one.call('putObject', 'during', 'k1', { a: '10.0.0.17', b: 1 }, {});
    expect(await one.call('findObjects', 'during', '(a=10.0.0.17)', {})).toMatchObject([
      { value: { a: '10.0.0.17' } },
    ]);
    expect(await two.call('findObjects', 'during', '(&(a=x2)(b=2))', {})).toMatchObject([]);
    await expect(
      two.call('findObjects', 'during', '(&(a=x2)(b=2))', { requireIndexes: true }),
    ).rejects.toMatchObject({
      name: 'NotIndexedError',
      context: { reindexingFields: ['b'], unindexedFields: [] },
    });
    await expect(
      two.call('findObjects', 'during', '(a=x2)', { sort: { attribute: 'b' } }),
    ).rejects.toMatchObject({
      name: 'InvalidQueryError',
    });
    await snapshot.end();
    await updated;
    expect(await columns(sql, 'during')).toEqual(['a', 'b']);
    await expect(two.call('putObject', 'during', 'new', { a: 'no address' }, {})).rejects.toMatchObject({
      name: 'InvalidIndexTypeError',
    });
    await reindexAll(two, 'during', 1000);
    expect(await one.call('findObjects', 'during', '(a=10.0.0.17)', {})).toMatchObject([{ key: 'k1' }]);
    expect(
      await one.call('findObjects', 'during', '(&(a=10.0.0.17)(b>=1))', { requireIndexes: true }),
    ).toHaveLength(1);
  });

  test('a second update waits, whatever it wants', async () => {
    // Those that wait for one change go on in any order, so the one that makes another change waits alone.
    await Promise.all(['second', 'third'].map((name) => createFull(sql, one, name, 3000)));
    const config = (version: number, index: object) => ({ index, options: { version } });
    const atRegistry = async () => {
      const waiting = `SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR NO KEY UPDATE'`;
      return (await sql.query(waiting)).rowCount;
    };
    const waited = async (name: string, begin: () => readonly Promise<unknown>[]) => {
      const [snapshot, holder] = [await openSnapshot(postgres.url), await connect(postgres.url)];
      const first = one.call('updateBucket', name, config(2, abc), {});
      await buildWaits(sql);
      // The change does not end before all of them have come upon it.
      await holder.query('BEGIN');
      await holder.query('SELECT FROM kv.buckets_config WHERE name = $1 FOR UPDATE', [name]);
      const others = begin();
      await vi.waitFor(async () => expect(await atRegistry()).toBe(others.length), patience);
      await holder.end();
      await vi.waitFor(async () => expect(await atRegistry()).toBe(0), patience);
      await snapshot.end();
      await Promise.all([first, ...others]);
    };
    let lower: unknown;
    await waited('second', () => [
      two.call('updateBucket', 'second', config(2, abc), {}),
      two.call('updateBucket', 'second', config(2, a), {}).catch((error: Error) => {
        lower = error.name;
      }),
    ]);
    expect(lower).toBe('BucketVersionError');
    await waited('third', () => [two.call('updateBucket', 'third', config(3, a), {})]);
    expect(await columns(sql, 'third')).toEqual(['a']);
  });

  test('the bucket may be deleted', async () => {
    await createFull(sql, one, 'deleted', 3000);
    const snapshot = await openSnapshot(postgres.url);
    const config = { index: abc, options: { version: 2 } };
    const updated = one.call('updateBucket', 'deleted', config, {}).catch((error: Error) => error.name);
    await buildWaits(sql);
    await two.call('delBucket', 'deleted', {});
    expect(await updated).toBe('BucketNotFoundError');
    await snapshot.end();
    expect((await sql.query(`SELECT FROM kv."bucket.changes" WHERE name = 'deleted'`)).rowCount).toBe(0);
  });
});

test('a bucket that is deleted while a build waits for its table leaves no lock or transaction behind', async () => {
  await Promise.all(['gone', 'later'].map((name) => createFull(sql, one, name, 3000)));
  const [seat, deleter] = await Promise.all([connect(postgres.url), connect(postgres.url)]);
  // No build begins before the table is locked.
  await seat.query('BEGIN; LOCK TABLE kv."bucket.builder" IN EXCLUSIVE MODE');
  const config = { index: abc, options: { version: 2 } };
  const updated = one.call('updateBucket', 'gone', config, {}).catch((error: Error) => error.name);
  await vi.waitFor(
    async () =>
      expect((await sql.query(`SELECT FROM kv."bucket.changes" WHERE name = 'gone'`)).rowCount).toBe(1),
    patience,
  );
  await deleter.query('BEGIN; LOCK TABLE kv.gone IN ACCESS EXCLUSIVE MODE');
  await seat.end();
  const waiting = `SELECT FROM pg_locks WHERE NOT granted AND relation = 'kv.gone'::regclass`;
  await vi.waitFor(async () => expect((await sql.query(waiting)).rowCount).toBe(1), patience);
  await deleter.query(`DROP TABLE kv.gone; DELETE FROM kv.buckets_config WHERE name = 'gone';
    SELECT pg_notify('kv.buckets', 'gone'); COMMIT`);
  await deleter.end();
  expect(await updated).toBe('BucketNotFoundError');

  await two.call('updateBucket', 'later', config, {});
  const open = `SELECT query FROM pg_stat_activity
    WHERE application_name = 'conger-kvstore' AND state LIKE 'idle in transaction%'`;
  await vi.waitFor(async () => expect((await sql.query(open)).rows).toEqual([]), patience);
});

test('an index that cannot be unique leaves the bucket as it was, and the next try may succeed', async () => {
  await createFull(sql, one, 'double', 3000);
  await one.call('putObject', 'double', 'twin', { a: 'x7' }, {});
  const before = await one.first('getBucket', {}, 'double');
  const index = { a: { type: 'string', unique: true }, b: { type: 'number' } };
  const update = () => two.call('updateBucket', 'double', { index, options: { version: 2 } }, {});
  await expect(update()).rejects.toMatchObject({
    name: 'UniqueAttributeError',
    context: { bucket: 'double', attribute: 'a', value: 'x7' },
  });
  expect(await one.first('getBucket', {}, 'double')).toEqual(before);
  expect(await indexes(sql, 'double')).toEqual(['double._id', 'double._key', 'double.a.btree']);
  expect(await columns(sql, 'double')).toEqual(['a']);
  await one.call('putObject', 'double', 'triplet', { a: 'x7' }, {});

  for (const key of ['twin', 'triplet']) await one.call('delObject', 'double', key, {});
  await update();
  expect(await indexes(sql, 'double')).toEqual([
    ...['double._id', 'double._key', 'double.a.unique', 'double.b.btree'],
  ]);
  await expect(one.call('putObject', 'double', 'twin', { a: 'x7' }, {})).rejects.toMatchObject({
    name: 'UniqueAttributeError',
    context: { attribute: 'a' },
  });
});

test('an index that was built for a former bucket of the name is dropped', async () => {
  const unique = { a: { type: 'string', unique: true } };
  for (const end of [
    (client: pg.PoolClient) => completeChange(client, 'anew', '1'),
    (client: pg.PoolClient) =>
      abandonChange(client, 'anew', '1', { state: '42703', message: 'no column', field: 'b' }),
  ]) {
    await one.call('createBucket', 'anew', { index: { ...a, u: unique.a } }, {});
    await sql.query('CREATE UNIQUE INDEX "anew.a.unique" ON kv.anew (a)');
    const pool = new pg.Pool({ connectionString: postgres.url });
    const client = await pool.connect();
    await client.query('BEGIN');
    await end(client);
    await client.query('COMMIT');
    client.release();
    await pool.end();
    for (const key of ['x', 'y']) await one.call('putObject', 'anew', key, { a: 'same', u: key }, {});
    await expect(one.call('putObject', 'anew', 'z', { u: 'x' }, {})).rejects.toMatchObject({
      name: 'UniqueAttributeError',
    });
    await one.call('delBucket', 'anew', {});
  }
});

test('a build whose connection breaks is made again', async () => {
  await createFull(sql, one, 'broken', 3000);
  const snapshot = await openSnapshot(postgres.url);
  const updated = one.call('updateBucket', 'broken', { index: abc, options: { version: 2 } }, {});
  const pid = await buildWaits(sql);
  await sql.query('SELECT pg_terminate_backend($1)', [pid]);
  await vi.waitFor(async () => expect(await buildWaits(sql)).not.toBe(pid), patience);
  await snapshot.end();
  await updated;
  expect(await indexes(sql, 'broken')).toEqual(
    ['_id', '_key', 'a', 'b', 'c'].map((f) => expectedIndex('broken', f)),
  );
});

test('whoever holds the seat says so again and again, and where it is lost another server takes it', async () => {
  await createFull(sql, one, 'seat', 3000);
  const snapshot = await openSnapshot(postgres.url);
  const updated = one.call('updateBucket', 'seat', { index: abc, options: { version: 2 } }, {});
  await buildWaits(sql);
  const holder = async () => {
    const { rows } = await sql.query<{ pid: number; heard: string }>(
      `SELECT pid, state_change::text AS heard FROM pg_locks JOIN pg_stat_activity USING (pid)
       WHERE granted AND relation = 'kv."bucket.builder"'::regclass`,
    );
    return rows[0];
  };
  const first = await holder();
  expect(first).toBeDefined();
  const heard = new Set<string | undefined>();
  await vi.waitFor(async () => {
    const now = await holder();
    expect(now?.pid).toBe(first?.pid);
    expect(heard.add(now?.heard).size).toBeGreaterThan(2);
  }, patience);
  await sql.query('SELECT pg_terminate_backend($1)', [first?.pid]);
  await vi.waitFor(async () => {
    const now = await holder();
    expect(now).toBeDefined();
    expect(now?.pid).not.toBe(first?.pid);
  }, patience);
  await snapshot.end();
  await updated;
  expect(await indexes(sql, 'seat')).toEqual(
    ['_id', '_key', 'a', 'b', 'c'].map((f) => expectedIndex('seat', f)),
  );
});

test('what a server that is killed was building or reindexing another one finishes', async () => {
  await sql.query('CREATE DATABASE killed');
  const url = postgres.url.replace(/conger$/, 'killed');
  const client = await connect(url);
  const seed = await openTestStore(url);
  await createFull(client, seed, 'orphan', 20_000);
  await seed.store.close();
  // The only server there is, so that it is who builds.
  let kvstore = await spawnKvstore(url);
  const snapshot = await openSnapshot(url);
  const call = async (method: string, args: unknown[]) => {
    const connection = new FastConnection({ host: '127.0.0.1', port: kvstore.port });
    await once(connection, 'connect');
    return connection.call(method, args);
  };
  const updated = call('updateBucket', ['orphan', { index: abc, options: { version: 2 } }, {}]).catch(String);
  await buildWaits(client);
  await kvstore.kill('SIGKILL');
  expect(await updated).toContain('ConnectionBrokenError');
  const third = await openTestStore(url);
  await snapshot.end();
  await vi.waitFor(
    async () => expect((await third.first('getBucket', {}, 'orphan')).options).toBe('{"version":2}'),
    patience,
  );
  expect(await indexes(client, 'orphan')).toEqual(
    ['_id', '_key', 'a', 'b', 'c'].map((f) => expectedIndex('orphan', f)),
  );

  kvstore = await spawnKvstore(url);
  await call('reindexObjects', ['orphan', 500, {}]);
  // While somebody is at one of the objects nobody comes to the end of them.
  const holder = await connect(url);
  await holder.query(`BEGIN; SELECT FROM kv.orphan WHERE _key = 'k15000' FOR UPDATE`);
  const cut = call('reindexObjects', ['orphan', 20_000, {}]).catch(String);
  const done = async () => (await client.query('SELECT FROM kv.orphan WHERE _rver = 2')).rowCount ?? 0;
  await vi.waitFor(async () => expect(await done()).toBeGreaterThan(1000), patience);
  await kvstore.kill('SIGKILL');
  expect(await cut).toContain('ConnectionBrokenError');
  await holder.end();
  const { rows } = await client.query(`SELECT low::integer FROM kv."bucket.reindex" WHERE name = 'orphan'`);
  expect(rows[0]?.low).toBeGreaterThanOrEqual(500);
  await reindexAll(third, 'orphan', 5000);
  expect(await wrong(client, 'orphan')).toBe(0);
  expect((await third.first('getBucket', {}, 'orphan')).reindex_active).toBe('{}');
  await third.store.close();
  await client.end();
}, 180_000);

test('a change is heard of at once by servers that use the bucket, also after they had lost PostgreSQL', async () => {
  await one.call('createBucket', 'heard', { index: a, options: { version: 1 } }, {});
  // Composed from what the server knows, without asking PostgreSQL.
  const known = async () => {
    const [{ args }] = (await two.call('findObjects', 'heard', '(a=x)', { sql_only: true })) as [
      { args: string[] },
    ];
    return args;
  };
  const current = async () => {
    const { rows } = await sql.query(`SELECT generation FROM kv.buckets_config WHERE name = 'heard'`);
    return rows[0]?.generation;
  };
  expect(await known()).toContain(await current());
  await one.call('updateBucket', 'heard', { index: abc, options: { version: 2 } }, {});
  await vi.waitFor(async () => expect(await known()).toContain(await current()), patience);

  await sql.query(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'conger-kvstore listen'`,
  );
  await one.call('updateBucket', 'heard', { index: a, options: { version: 3 } }, {});
  await vi.waitFor(async () => expect(await known()).toContain(await current()), patience);
});

describe('reindexing', () => {
  test('is shared by those who do it at once, each object once, and is in no feed', async () => {
    await createFull(sql, one, 'shared', 5000);
    await one.call('updateBucket', 'shared', { index: abc, options: { version: 2 } }, {});
    const messages = await Messages.open(postgres.url);
    const stores = [one, two, one, two];
    const firsts = await Promise.all(stores.map((store) => store.first('reindexObjects', 'shared', 70, {})));
    expect(firsts.map(({ processed }) => processed)).toEqual([70, 70, 70, 70]);
    const sums = await Promise.all(stores.map((store) => reindexAll(store, 'shared', 70)));
    expect(sums.reduce((sum, n) => sum + n)).toBe(5000 - 4 * 70);
    expect(await messages.take()).toEqual([]);
    await messages.close();
    expect(await wrong(sql, 'shared')).toBe(0);
    expect((await sql.query('SELECT FROM kv."bucket.reindex"')).rowCount).toBe(0);
  });

  test('waits for an object that somebody is at, before it says that all are done', async () => {
    await createFull(sql, one, 'held', 3000);
    await one.call('updateBucket', 'held', { index: abc, options: { version: 2 } }, {});
    const holder = await connect(postgres.url);
    await holder.query(`BEGIN; SELECT FROM kv.held WHERE _key = 'k1500' FOR UPDATE`);
    const all = reindexAll(two, 'held', 10_000);
    const waiting = `SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%kv."held"%'`;
    await vi.waitFor(async () => expect((await sql.query(waiting)).rowCount).toBe(1), patience);
    expect((await one.first('getBucket', {}, 'held')).reindex_active).toBe('{"2":["b","c"]}');
    await holder.query('ROLLBACK');
    await holder.end();
    expect(await all).toBe(3000);
    expect(await wrong(sql, 'held')).toBe(0);
  });

  test('goes on while objects are written and deleted, and says what is left', async () => {
    await createFull(sql, one, 'moving', 3000);
    await one.call('updateBucket', 'moving', { index: abc, options: { version: 2 } }, {});
    expect(await two.first('reindexObjects', 'moving', 100, {})).toEqual({
      processed: 100,
      remaining: expect.toSatisfy((n: number) => n > 1000 && n <= 3000),
    });
    let running = true;
    const writer = async () => {
      for (let i = 3000; running; i--) {
        if (i % 3 === 0) await two.call('delObject', 'moving', `k${i}`, {}).catch(() => undefined);
        else await two.call('putObject', 'moving', `k${i}`, { a: `y${i}`, b: i, c: ['w'] }, {});
        await one.call('putObject', 'moving', `n${i}`, { a: 'n', b: 10_000 + i, c: ['n'] }, {});
      }
    };
    const writing = writer();
    let left = Number.POSITIVE_INFINITY;
    try {
      for (;;) {
        const { processed, remaining } = await one.first('reindexObjects', 'moving', 50, {});
        expect(remaining).toBeLessThanOrEqual(left);
        left = remaining;
        if (processed === 0) break;
      }
    } finally {
      running = false;
      await writing;
    }
    expect(left).toBe(0);
    expect(await wrong(sql, 'moving')).toBe(0);
  });

  test('leaves out what no column can hold', async () => {
    await createFull(sql, one, 'odd', 10);
    await one.call('putObject', 'odd', 'nul', { a: 'x', c: ['a\u0000b'] }, {});
    await one.call('updateBucket', 'odd', { index: abc, options: { version: 2 } }, {});
    expect(await reindexAll(two, 'odd', 5)).toBe(11);
    expect((await one.first('getObject', 'odd', 'nul', {})).value).toEqual({ a: 'x', c: ['a\u0000b'] });
  });

  test('of an update on an update starts anew', async () => {
    await createFull(sql, one, 'twice', 3000);
    await one.call('updateBucket', 'twice', { index: { ...a, b: abc.b }, options: { version: 2 } }, {});
    await one.first('reindexObjects', 'twice', 1000, {});
    await one.call('updateBucket', 'twice', { index: abc, options: { version: 3 } }, {});
    expect((await one.first('getBucket', {}, 'twice')).reindex_active).toBe('{"2":["b"],"3":["c"]}');
    expect(await reindexAll(two, 'twice', 1000)).toBe(3000);
    expect(await wrong(sql, 'twice')).toBe(0);
  });
});
