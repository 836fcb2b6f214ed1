import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { openTestStore, type TestStore } from './testing.ts';
import { Messages } from './testing-messages.ts';

let postgres: TestPostgres;
let one: TestStore;
let two: TestStore;

beforeAll(async () => {
  postgres = await startPostgres({ fsync: 'off' });
  // At the same time, on an empty database.
  [one, two] = await Promise.all([openTestStore(postgres.url), openTestStore(postgres.url)]);
});

afterAll(async () => {
  await Promise.all([one?.store.close(), two?.store.close()]);
  await postgres?.stop();
});

function failure(name: string) {
  return expect.objectContaining({ name });
}

const strings = (...names: string[]) => Object.fromEntries(names.map((n) => [n, { type: 'string' }]));

test('a bucket is answered as Moray does, its JSON as text', async () => {
  const index = { a: { type: 'string', unique: true }, b: { type: '[number]' } };
  await one.call('createBucket', 'shape', { index, options: { version: 3, partition: 'a' } }, {});
  const bucket = await two.first('getBucket', {}, 'shape');
  expect(bucket).toEqual({
    name: 'shape',
    index: JSON.stringify(index),
    pre: '[]',
    post: '[]',
    options: '{"version":3,"partition":"a"}',
    mtime: expect.stringMatching(/Z$/),
    reindex_active: null,
  });
  expect(await one.call('listBuckets', {})).toContainEqual(bucket);
  await expect(two.call('createBucket', 'shape', {}, {})).rejects.toEqual(failure('BucketConflictError'));
  await expect(one.call('getBucket', {}, 'other')).rejects.toEqual(failure('BucketNotFoundError'));
  await expect(one.call('updateBucket', 'other', {}, {})).rejects.toEqual(failure('BucketNotFoundError'));
  await expect(one.call('delBucket', 'other', {})).rejects.toEqual(failure('BucketNotFoundError'));
});

test('of servers that create one bucket at the same time, one does', async () => {
  const tries = await Promise.allSettled(
    [one, two, one, two].map((s) => s.call('createBucket', 'raced', { index: strings('a') }, {})),
  );
  expect(tries.filter((t) => t.status === 'fulfilled')).toHaveLength(1);
  for (const t of tries)
    if (t.status === 'rejected') expect(t.reason).toEqual(failure('BucketConflictError'));
});

test('fields may be named like the parts of a bucket', async () => {
  const index = strings('id', 'key', 'value', 'etag', 'seq');
  await one.call('createBucket', 'partnames', { index }, {});
  await one.call('putObject', 'partnames', 'k', { id: 'i', key: 'k' }, {});
  await one.call('delBucket', 'partnames', {});
});

describe('names', () => {
  test.each([
    'moray',
    'search',
    'buckets_config',
    '_name',
    'a-b',
    '1b',
    'b'.repeat(64),
    'a"; DROP SCHEMA kv; --',
    'é',
  ])('%s is no bucket', async (name) => {
    await expect(one.call('createBucket', name, {}, {})).rejects.toMatchObject({
      name: 'InvalidBucketNameError',
      message: expect.stringContaining('is not a valid bucket name'),
    });
    await expect(one.call('putObject', name, 'k', {}, {})).rejects.toEqual(failure('BucketNotFoundError'));
    await expect(one.call('findObjects', name, '(_key=*)', {})).rejects.toEqual(
      failure('BucketNotFoundError'),
    );
  });

  test.each(['_key', '_ID', 'moray_x', 'a"b', 'a b', "a');--", 'ctid', '_pkey', 'f'.repeat(64), '9a'])(
    '%s is no field',
    async (field) => {
      const config = { index: { [field]: { type: 'string' } } };
      await expect(one.call('createBucket', 'fields', config, {})).rejects.toEqual(
        failure('InvalidBucketConfigError'),
      );
    },
  );

  test('SQL words, any case and the longest names are names like others', async () => {
    const name = 'Select';
    const long = 'l'.repeat(63);
    const index = {
      ...strings('user', 'User', 'order', 'f'.repeat(63)),
      table: { type: '[string]', unique: true },
    };
    for (const bucket of [name, 'select', long, `${'l'.repeat(62)}m`, 'pg_class']) {
      await one.call('createBucket', bucket, { index }, {});
      await one.call('putObject', bucket, 'k', { user: 'u', User: 'U', order: 'o', table: ['t'] }, {});
      const filter = '(&(user=u)(User=U)(order=o)(table=t))';
      expect(
        await two.call('findObjects', bucket, filter, { sort: { attribute: 'User', order: 'desc' } }),
      ).toHaveLength(1);
    }
    await expect(one.call('putObject', name, 'k2', { table: ['t'] }, {})).rejects.toMatchObject({
      name: 'UniqueAttributeError',
      context: { attribute: 'table' },
    });
  });
});

test.each([
  [{ index: 5 }, 'bucket.index should be object'],
  [{ index: { foo: null } }, "bucket.index['foo'] should be object"],
  [{ index: { foo: {} } }, "bucket.index['foo'] should have required property 'type'"],
  [
    { index: { foo: { type: 'invalid' } } },
    "bucket.index['foo'].type should be equal to one of the allowed values",
  ],
  [{ index: { foo: { type: 'string', unique: 'yes' } } }, "bucket.index['foo'].unique should be boolean"],
  [{ index: { foo: { type: 'string', x: 1 } } }, "bucket.index['foo'] should NOT have additional properties"],
  [{ options: 'opts' }, 'bucket.options should be object'],
  [{ options: { version: '2' } }, 'bucket.options.version should be'],
  [{ options: { version: -2 } }, 'bucket.options.version should be >= 0'],
  [{ pre: 'hello' }, 'bucket.pre should be array'],
])('a bucket of %j is refused', async (config, message) => {
  await expect(one.call('createBucket', 'invalid', config, {})).rejects.toMatchObject({
    name: 'InvalidBucketConfigError',
    message: expect.stringContaining(message),
  });
});

test('code sent over the wire is not taken', async () => {
  const config = { pre: ['function (req, cb) { cb(); }'] };
  await expect(one.call('createBucket', 'code', config, {})).rejects.toEqual(failure('NotFunctionError'));
});

test('an update needs a higher version', async () => {
  await one.call('createBucket', 'versions', { options: { version: 2 } }, {});
  await expect(one.call('updateBucket', 'versions', { options: { version: 2 } }, {})).rejects.toEqual(
    failure('BucketVersionError'),
  );
  await expect(two.call('updateBucket', 'versions', {}, {})).rejects.toEqual(failure('BucketVersionError'));
  await two.call('updateBucket', 'versions', { options: { version: 3 } }, {});
});

test('a field that is added is reindexed, and is filtered in the server until it is', async () => {
  await one.call('createBucket', 'grow', { index: strings('a'), options: { version: 1 } }, {});
  for (let i = 0; i < 5; i++) await one.call('putObject', 'grow', `k${i}`, { a: 'x', n: i }, {});
  const index = { ...strings('a'), n: { type: 'number' } };
  await one.call('updateBucket', 'grow', { index, options: { version: 2 } }, {});
  expect((await two.first('getBucket', {}, 'grow')).reindex_active).toBe('{"2":["n"]}');

  await expect(two.call('findObjects', 'grow', '(n>=3)', {})).rejects.toEqual(failure('InvalidQueryError'));
  await expect(
    two.call('findObjects', 'grow', '(&(a=x)(n>=3))', { requireIndexes: true }),
  ).rejects.toMatchObject({
    name: 'NotIndexedError',
    message: expect.stringContaining("Reindexing fields: [ 'n' ]. Unindexed fields: []"),
  });
  await expect(two.call('updateObjects', 'grow', { n: 1 }, '(a=x)', {})).rejects.toEqual(
    failure('NotIndexedError'),
  );
  expect(await two.call('findObjects', 'grow', '(&(a=x)(n>=3))', {})).toHaveLength(2);

  expect(await two.first('reindexObjects', 'grow', 3, {})).toEqual({ processed: 3, remaining: 2 });
  await one.call('putObject', 'grow', 'k4', { a: 'x', n: 40 }, {});
  expect(await one.first('reindexObjects', 'grow', 3, {})).toEqual({ processed: 1, remaining: 0 });
  expect(await two.first('reindexObjects', 'grow', 3, {})).toEqual({ processed: 0, remaining: 0 });
  expect((await one.first('getBucket', {}, 'grow')).reindex_active).toBe('{}');
  const found = await one.call('findObjects', 'grow', '(n>=3)', { sort: { attribute: 'n', order: 'ASC' } });
  expect(found).toMatchObject([{ value: { n: 3 } }, { value: { n: 40 } }]);
  expect(await one.first('reindexObjects', 'grow', 3, {})).toEqual({ processed: 0 });
});

test('reindexObjects tells what it has done, also where the bucket becomes another while it waits for the last object', async () => {
  await one.call('createBucket', 'ending', { index: strings('a'), options: { version: 1 } }, {});
  for (let i = 0; i < 5; i++) await one.call('putObject', 'ending', `k${i}`, { a: 'x', b: 'y' }, {});
  await one.call('updateBucket', 'ending', { index: strings('a', 'b'), options: { version: 2 } }, {});
  const [holder, watcher] = [new pg.Client(postgres.url), new pg.Client(postgres.url)];
  await Promise.all([holder.connect(), watcher.connect()]);
  await holder.query(`BEGIN; SELECT FROM kv.ending WHERE _key = 'k2' FOR UPDATE`);
  const told = two.first('reindexObjects', 'ending', 100, {});
  const waiting = `SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%kv."ending"%'`;
  while ((await watcher.query(waiting)).rowCount === 0);
  // As if somebody else had done the last one, and said that all are done.
  await watcher.query(
    `UPDATE kv.buckets_config SET generation = nextval('kv."bucket.generation"') WHERE name = 'ending'`,
  );
  await holder.query(`UPDATE kv.ending SET _rver = 2, b = 'y' WHERE _key = 'k2'; COMMIT`);
  expect(await told).toEqual({ processed: 4, remaining: 0 });
  await Promise.all([holder.end(), watcher.end()]);
});

describe('a bucket that another server has changed', () => {
  test('is written as it is now', async () => {
    await one.call('createBucket', 'stale', { index: strings('a', 'gone'), options: { version: 1 } }, {});
    await one.call('putObject', 'stale', 'k0', { a: 'x' }, {});
    await two.call('putObject', 'stale', 'k1', { a: 'x' }, {});
    const index = { ...strings('a', 'b'), num: { type: 'number' } };
    await two.call('updateBucket', 'stale', { index, options: { version: 2, feed: false } }, {});

    await one.call('putObject', 'stale', 'k2', { a: 'x', b: 'y', num: 5 }, {});
    await one.call('batch', [{ bucket: 'stale', key: 'k3', value: { b: 'y' } }], {});
    await expect(one.call('putObject', 'stale', 'k4', { num: 5, a: 'z' }, {})).resolves.toBeDefined();
    for (let i = 0; i < 3; i++) await two.first('reindexObjects', 'stale', 100, {});
    const found = await one.call('findObjects', 'stale', '(b=y)', {});
    expect(found.map((o) => (o as { key: string }).key).sort()).toEqual(['k2', 'k3']);
  });

  test('is searched as it is now', async () => {
    await one.call('createBucket', 'seen', { index: strings('a'), options: { version: 1 } }, {});
    await one.call('putObject', 'seen', 'k', { a: 'x', b: 'y' }, {});
    await two.call('updateBucket', 'seen', { index: strings('a', 'b'), options: { version: 2 } }, {});
    while ((await two.first('reindexObjects', 'seen', 100, {})).processed > 0);
    expect(await one.call('findObjects', 'seen', '(b=y)', {})).toHaveLength(1);
    await two.call('updateBucket', 'seen', { index: strings('a'), options: { version: 3 } }, {});
    await expect(one.call('findObjects', 'seen', '(b=y)', {})).rejects.toEqual(failure('InvalidQueryError'));
    await two.call('updateBucket', 'seen', { index: { a: { type: 'number' } }, options: { version: 4 } }, {});
    await expect(one.call('deleteMany', 'seen', '(a=x)', {})).rejects.toEqual(failure('NotIndexedError'));
  });

  test('is gone, or is another by the same name', async () => {
    await one.call('createBucket', 'mortal', { index: strings('a') }, {});
    await one.call('putObject', 'mortal', 'k', { a: 'x' }, {});
    await two.call('delBucket', 'mortal', {});
    await expect(one.call('putObject', 'mortal', 'k', {}, {})).rejects.toEqual(
      failure('BucketNotFoundError'),
    );
    await two.call('createBucket', 'mortal', { index: { n: { type: 'number', unique: true } } }, {});
    await one.call('putObject', 'mortal', 'k', { n: 1 }, {});
    await two.call('delBucket', 'mortal', {});
    await expect(one.call('getObject', 'mortal', 'k', {})).rejects.toEqual(failure('BucketNotFoundError'));
    await two.call('createBucket', 'mortal', {}, {});
    await expect(one.call('getObject', 'mortal', 'k', {})).rejects.toEqual(failure('ObjectNotFoundError'));
    await expect(one.call('findObjects', 'mortal', '(n=1)', {})).rejects.toEqual(
      failure('InvalidQueryError'),
    );
    await expect(one.call('batch', [{ bucket: 'mortal', key: 'k', value: {} }], {})).resolves.toBeDefined();
  });
});

test.each(['for the first time', 'by a statement that is prepared'])(
  'a write that waits while its bucket changes is made as the bucket is then, %s',
  async (how) => {
    const name = how.length > 20 ? 'waits2' : 'waits1';
    await one.call('createBucket', name, { index: strings('a'), options: { feed: false } }, {});
    if (name === 'waits2')
      for (let i = 0; i < 9; i++) await one.call('putObject', name, 'k', { a: `x${i}` }, {});
    const messages = await Messages.open(postgres.url);
    const [client, watcher] = [new pg.Client(postgres.url), new pg.Client(postgres.url)];
    await Promise.all([client.connect(), watcher.connect()]);
    await client.query(`BEGIN; LOCK TABLE kv.${name} IN ACCESS EXCLUSIVE MODE`);
    const change = `UPDATE kv.buckets_config SET options = '{"version":0}',
      generation = nextval('kv."bucket.generation"') WHERE name = $1`;
    await client.query(change, [name]);
    const put = one.call('putObject', name, 'k', { a: 'y' }, {});
    const waiting = `SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'conger-kvstore'`;
    // Not within the transaction, which sees the sessions that there were when it first looked.
    while ((await watcher.query(waiting)).rowCount === 0);
    await client.query('COMMIT');
    await put;
    expect(await messages.take()).toMatchObject([{ body: { bucket: name, key: 'k', value: { a: 'y' } } }]);
    await messages.close();
    await Promise.all([client.end(), watcher.end()]);
  },
);

test('writers go on while the bucket changes under them, and nothing is written by an old schema', async () => {
  await one.call('createBucket', 'busy', { index: strings('a'), options: { version: 1 } }, {});
  let running = true;
  let written = 0;
  const writer = async (store: TestStore, name: string) => {
    for (let i = 0; running; i++) {
      await store.call('putObject', 'busy', `${name}-${i % 50}`, { a: 'x', b: `b${i}`, n: i }, {});
      written++;
    }
  };
  const writers = [one, two].flatMap((s, i) => Array.from({ length: 8 }, (_, w) => writer(s, `${i}-${w}`)));
  for (let version = 2; version <= 6; version++) {
    const index = version % 2 === 0 ? { ...strings('a', 'b'), n: { type: 'number' } } : strings('a');
    await one.call('updateBucket', 'busy', { index, options: { version } }, {});
  }
  while ((await two.first('reindexObjects', 'busy', 1000, {})).processed > 0);
  running = false;
  await Promise.all(writers);
  expect(written).toBeGreaterThan(0);
  const client = new pg.Client(postgres.url);
  await client.connect();
  const { rows } = await client.query(
    `SELECT count(*)::int AS all, count(*) FILTER (WHERE b IS DISTINCT FROM _value::json->>'b' OR n IS NULL)::int AS wrong FROM kv.busy`,
  );
  await client.end();
  expect(rows[0]).toMatchObject({ wrong: 0 });
});

test('an index that becomes unique where it cannot be is refused, and the bucket stays as it was', async () => {
  await one.call('createBucket', 'dup', { index: strings('a'), options: { version: 1 } }, {});
  await one.call('putObject', 'dup', '1', { a: 'x' }, {});
  await one.call('putObject', 'dup', '2', { a: 'x' }, {});
  const unique = { index: { a: { type: 'string', unique: true } }, options: { version: 2 } };
  await expect(one.call('updateBucket', 'dup', unique, {})).rejects.toMatchObject({
    name: 'UniqueAttributeError',
    context: { attribute: 'a', value: 'x' },
  });
  await one.call('delObject', 'dup', '2', {});
  await one.call('updateBucket', 'dup', unique, {});
  await expect(two.call('putObject', 'dup', '2', { a: 'x' }, {})).rejects.toEqual(
    failure('UniqueAttributeError'),
  );
});
