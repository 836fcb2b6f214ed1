import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { openTestStore, type TestStore } from './testing.ts';
import { Messages } from './testing-messages.ts';

let postgres: TestPostgres;
let store: TestStore;
let messages: Messages;

beforeAll(async () => {
  postgres = await startPostgres({ fsync: 'off' });
  store = await openTestStore(postgres.url, { sql: true });
  messages = await Messages.open(postgres.url);
  const index = {
    name: { type: 'string', unique: true },
    num: { type: 'number' },
    tags: { type: '[string]' },
    ip: { type: 'ip' },
    range: { type: 'numrange' },
    owner_uuid: { type: 'string' },
  };
  await store.call('createBucket', 'things', { index, options: { version: 1, partition: 'owner_uuid' } }, {});
  await store.call(
    'createBucket',
    'quiet',
    { index: { n: { type: 'number' } }, options: { feed: false } },
    {},
  );
});

afterAll(async () => {
  await messages?.close();
  await store?.store.close();
  await postgres?.stop();
});

function put(key: string, value: object, options: object = {}) {
  return store.first('putObject', 'things', key, value, options);
}

function failure(name: string, context?: object) {
  return expect.objectContaining(
    context === undefined ? { name } : { name, context: expect.objectContaining(context) },
  );
}

test('an object is read as it was written, with its metadata', async () => {
  const before = Date.now();
  const { etag } = await put('k1', { name: 'one', num: 1, deep: { a: [1, null, 'é\u0000'] } });
  const object = await store.first('getObject', 'things', 'k1', {});
  expect(object).toMatchObject({
    bucket: 'things',
    key: 'k1',
    value: { name: 'one', num: 1, deep: { a: [1, null, 'é\u0000'] } },
    _etag: etag,
    _id: expect.any(Number),
  });
  expect(object._mtime).toBeGreaterThanOrEqual(before);
  expect(etag).toMatch(/^[0-9A-F]{8}$/);
});

test('an update keeps the id and changes the etag; indexed fields are read in their canonical form', async () => {
  const first = await store.first('getObject', 'things', 'k1', {});
  await put('k1', { name: 'one', num: '7', tags: 'solo', ip: 'FD00::0:1' });
  const second = await store.first('getObject', 'things', 'k1', {});
  expect(second._id).toBe(first._id);
  expect(second._etag).not.toBe(first._etag);
  expect(second.value).toEqual({ name: 'one', num: 7, tags: ['solo'], ip: 'fd00::1' });
});

describe('etags', () => {
  test('null: only where there is none', async () => {
    const { etag } = await put('e1', { num: 1 }, { etag: null });
    await expect(put('e1', { num: 2 }, { etag: null })).rejects.toEqual(
      failure('EtagConflictError', { bucket: 'things', key: 'e1', expected: 'null', actual: etag }),
    );
  });

  test('given: only that object', async () => {
    const { etag } = await put('e2', { num: 1 });
    await expect(put('e2', { num: 2 }, { etag: 'DEADBEEF' })).rejects.toEqual(
      failure('EtagConflictError', { actual: etag }),
    );
    await put('e2', { num: 2 }, { etag });
    await expect(put('e2', { num: 3 }, { etag })).rejects.toEqual(failure('EtagConflictError'));
    await expect(put('nothing', { num: 3 }, { etag })).rejects.toEqual(
      failure('EtagConflictError', { expected: etag, actual: 'null' }),
    );
    await expect(store.call('getObject', 'things', 'nothing', {})).rejects.toEqual(
      failure('ObjectNotFoundError'),
    );
  });

  test('of a delete', async () => {
    const { etag } = await put('e3', { num: 1 });
    await expect(store.call('delObject', 'things', 'e3', { etag: 'DEADBEEF' })).rejects.toEqual(
      failure('EtagConflictError'),
    );
    await store.call('delObject', 'things', 'e3', { etag });
    await expect(store.call('delObject', 'things', 'e3', { etag })).rejects.toEqual(
      failure('ObjectNotFoundError'),
    );
  });
});

describe('errors of a write', () => {
  test('keys that would be one as UTF-8 are refused, and nothing else that comes with them', async () => {
    const halves = ['\ud800', 'half\udfff', '\udc00\ud800'];
    const puts = await Promise.allSettled([...halves, 'whole 𝄞'].map((key) => put(key, { num: 1 })));
    expect(puts.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected', 'fulfilled']);
    const requests = halves.map((key, num) => ({ bucket: 'things', key, value: { num } }));
    await expect(store.call('batch', requests, {})).rejects.toEqual(failure('InvocationError'));
    await store.call('delObject', 'things', 'whole 𝄞', {});
  });

  test.each([
    ['a value of another type', { ip: '1.2.3' }, 'InvalidIndexTypeError'],
    ['a range that PostgreSQL refuses', { range: '[9,1]' }, 'InvalidIndexTypeError'],
    ['NUL in an indexed field', { tags: ['a\u0000b'] }, 'InvalidIndexTypeError'],
    [
      'too much for an index',
      { name: Array.from({ length: 5000 }, (_, i) => i * 7919).join('') },
      'InvocationError',
    ],
  ])('%s', async (_, value, name) => {
    await expect(put('bad', value)).rejects.toEqual(failure(name));
    await expect(store.call('getObject', 'things', 'bad', {})).rejects.toEqual(
      failure('ObjectNotFoundError'),
    );
  });

  test('a unique value that is in use', async () => {
    await put('u1', { name: 'taken (=)' });
    await expect(put('u2', { name: 'taken (=)' })).rejects.toEqual(
      failure('UniqueAttributeError', { attribute: 'name', bucket: 'things', key: 'u2' }),
    );
    await put('u2', { name: 'free' });
    await expect(put('u2', { name: 'taken (=)' })).rejects.toEqual(failure('UniqueAttributeError'));
  });

  test('no such bucket, and arguments that are none', async () => {
    await expect(store.call('putObject', 'nope', 'k', {}, {})).rejects.toEqual(
      failure('BucketNotFoundError'),
    );
    await expect(store.call('putObject', 'things', '', {}, {})).rejects.toMatchObject({
      name: 'InvocationError',
      message:
        'putObject expects "key" (args[1]) to be a nonempty string: key should NOT be shorter than 1 characters',
    });
    await expect(store.call('putObject', 'things', 'k', [], {})).rejects.toEqual(failure('InvocationError'));
    await expect(store.call('putObject', 'things', 'k\0', {}, {})).rejects.toEqual(
      failure('InvocationError'),
    );
    await expect(store.call('getObject', 'things', 'k')).rejects.toMatchObject({
      message: 'getObject expects 3 arguments',
    });
    await expect(
      store.call('findObjects', 'things', '(a=5)', { sort: { attribute: 'a', order: 'bad' } }),
    ).rejects.toThrow('options.sort.order should be equal to one of the allowed values ("ASC", "DESC")');
    await expect(store.call('updateBucket', 'things', {}, { no_reindex: 1 })).rejects.toThrow(
      'to be a valid options object: options.no_reindex should be boolean',
    );
    await expect(store.call('sql', 'SELECT 1', [], { req_id: 'foo' })).rejects.toThrow(
      'options.req_id should match format "uuid"',
    );
  });
});

test('each change is emitted once, under its partition key, with the values before and after', async () => {
  await messages.take();
  const origin = { req_id: 'b3b7d2c4-0000-4000-8000-000000000001', traceparent: '00-11-22-01' };
  const { etag } = await put('m1', { owner_uuid: 'ow"ner', pad: 'x"\\\n' }, origin);
  await expect(put('m1', { num: 2 }, { etag: null })).rejects.toThrow();
  await put('m1', { owner_uuid: 'ow"ner', num: 2 });
  await put('m2', { num: 1 });
  await store.call('delObject', 'things', 'm1', {});
  await expect(store.call('delObject', 'things', 'm1', {})).rejects.toThrow();
  await store.call('putObject', 'quiet', 'm3', { n: 1 }, {});

  const emitted = await messages.take();
  expect(emitted.map(({ prefix, body }) => [prefix, body.op, body.key, body.value, body.previous])).toEqual([
    ['conger/ow"ner', 'put', 'm1', { owner_uuid: 'ow"ner', pad: 'x"\\\n' }, null],
    ['conger/ow"ner', 'put', 'm1', { owner_uuid: 'ow"ner', num: 2 }, { owner_uuid: 'ow"ner', pad: 'x"\\\n' }],
    ['conger/m2', 'put', 'm2', { num: 1 }, null],
    ['conger/ow"ner', 'delete', 'm1', null, { owner_uuid: 'ow"ner', num: 2 }],
  ]);
  expect(emitted[0]?.body).toMatchObject({
    v: 1,
    bucket: 'things',
    etag,
    request_id: origin.req_id,
    traceparent: origin.traceparent,
  });
  expect(emitted[3]?.body).toMatchObject({ etag: null, request_id: null });
});

test('updateObjects and deleteMany rewrite what they find, and emit it', async () => {
  for (let i = 0; i < 5; i++) await put(`s${i}`, { num: 100 + i, owner_uuid: 'o', other: i });
  await messages.take();
  const { count, etag } = await store.first('updateObjects', 'things', { ip: '10.0.0.1' }, '(num>=102)', {});
  expect(count).toBe(3);
  const changed = await store.call('findObjects', 'things', '(ip=10.0.0.1)', {
    sort: { attribute: '_key', order: 'ASC' },
  });
  expect(changed).toMatchObject([
    { key: 's2', _etag: etag, value: { num: 102, other: 2, ip: '10.0.0.1' } },
    { key: 's3', _etag: etag },
    { key: 's4', _etag: etag },
  ]);
  expect(await store.first('deleteMany', 'things', '(&(num>=100)(num<=200))', { limit: 4 })).toEqual({
    count: 4,
  });
  const emitted = await messages.take();
  expect(emitted.map((m) => `${m.body.op} ${m.body.key}`)).toEqual([
    ...['put s2', 'put s3', 'put s4'],
    ...['delete s0', 'delete s1', 'delete s2', 'delete s3'],
  ]);
  expect(emitted[0]?.body.previous).toEqual({ num: 102, owner_uuid: 'o', other: 2 });
});

test('updateObjects refuses what it cannot index', async () => {
  const update = (fields: object, filter = '(num>=0)') =>
    store.call('updateObjects', 'things', fields, filter, {});
  await expect(update({})).rejects.toEqual(failure('FieldUpdateError'));
  await expect(update({ other: 1 })).rejects.toEqual(failure('NotIndexedError'));
  await expect(update({ num: null })).rejects.toEqual(failure('NotNullableError'));
  await expect(update({ ip: 'x' })).rejects.toEqual(failure('InvalidIndexTypeError'));
  await expect(update({ num: 1 }, '(other=1)')).rejects.toEqual(failure('NotIndexedError'));
  await put('same1', { num: 9001 });
  await put('same2', { num: 9001 });
  await expect(update({ name: 'both' }, '(num=9001)')).rejects.toEqual(
    failure('UniqueAttributeError', { attribute: 'name' }),
  );
});

describe('a value that the log of changes could not carry', () => {
  const limit = 3 * 1024 * 1024;
  /** A value that takes this many bytes as JSON, in characters of two bytes. */
  const sized = (bytes: number) => {
    const frame = JSON.stringify({ num: 7777, pad: '' }).length;
    return { num: 7777, pad: 'é'.repeat((bytes - frame) >> 1) + 'x'.repeat((bytes - frame) & 1) };
  };
  const tooLarge = expect.objectContaining({
    name: 'InvocationError',
    message: expect.stringContaining(`the limit is ${limit}`),
  });

  test('is refused by putObject; one of just the limit is taken', async () => {
    const { etag } = await put('large', sized(limit));
    expect(Buffer.byteLength(JSON.stringify(sized(limit)))).toBe(limit);
    await messages.take();
    await expect(put('large', sized(limit + 1))).rejects.toEqual(tooLarge);
    await expect(put('larger', sized(limit + 1))).rejects.toEqual(tooLarge);
    expect((await store.first('getObject', 'things', 'large', {}))._etag).toBe(etag);
    await expect(store.call('getObject', 'things', 'larger', {})).rejects.toEqual(
      failure('ObjectNotFoundError'),
    );
    expect(await messages.take()).toEqual([]);
  });

  test('is refused by batch, with all that is in it', async () => {
    const requests = [
      { bucket: 'things', key: 'with it', value: { num: 1 } },
      { bucket: 'things', key: 'larger', value: sized(limit + 1) },
    ];
    await expect(store.call('batch', requests, {})).rejects.toEqual(tooLarge);
    await expect(store.call('getObject', 'things', 'with it', {})).rejects.toEqual(
      failure('ObjectNotFoundError'),
    );
  });

  test('is refused by updateObjects, which then updates nothing', async () => {
    await put('a small one', { num: 7777 });
    await messages.take();
    await expect(
      store.call('updateObjects', 'things', { owner_uuid: 'grown' }, '(num=7777)', {}),
    ).rejects.toEqual(tooLarge);
    expect((await store.first('getObject', 'things', 'a small one', {})).value).toEqual({ num: 7777 });
    expect(await messages.take()).toEqual([]);
  });

  test('nor may its partition key be what no record has room for', async () => {
    await expect(put('p', { owner_uuid: 'o'.repeat(70_000) })).rejects.toThrow('a partition key may not be');
  });
});

test('ping, version, getTokens and sql', async () => {
  await store.call('ping', { deep: true });
  expect(await store.first('version', {})).toEqual({ version: 2 });
  await expect(store.call('getTokens', {})).rejects.toThrow('Operation not supported');
  expect(await store.call('sql', 'SELECT _key FROM things WHERE _key = $1', ['k1'], {})).toEqual([
    { _key: 'k1' },
  ]);
  const closed = await openTestStore(postgres.url);
  await expect(closed.call('sql', 'SELECT 1', [], {})).rejects.toEqual(failure('OperationNotAllowedError'));
  await closed.store.close();
});
