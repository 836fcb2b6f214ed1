import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { openTestStore, type TestStore } from './testing.ts';
import { Messages } from './testing-messages.ts';

let postgres: TestPostgres;
let store: TestStore;
let other: TestStore;
let messages: Messages;

beforeAll(async () => {
  postgres = await startPostgres({ fsync: 'off' });
  store = await openTestStore(postgres.url);
  other = await openTestStore(postgres.url);
  messages = await Messages.open(postgres.url);
  const index = { u: { type: 'string', unique: true }, n: { type: 'number' } };
  await store.call('createBucket', 'left', { index, options: { version: 1 } }, {});
  await store.call('createBucket', 'right', { index }, {});
  await store.call('createBucket', 'quiet', { options: { feed: false } }, {});
});

afterAll(async () => {
  await messages?.close();
  await Promise.all([store?.store.close(), other?.store.close()]);
  await postgres?.stop();
});

function batch(requests: object[], options: object = {}) {
  return store.first('batch', requests, options);
}

function failure(name: string, context?: object) {
  return expect.objectContaining(
    context === undefined ? { name } : { name, context: expect.objectContaining(context) },
  );
}

test('the error is that of the first request that fails, in whichever order buckets are locked', async () => {
  const wrong = { bucket: 'right', key: 'first', value: { n: 1 }, options: { etag: 'DEADBEEF' } };
  const missing = { bucket: 'left', operation: 'delete', key: 'nothing' };
  const nowhere = { bucket: 'nowhere', key: 'k', value: {} };
  await expect(batch([wrong, missing])).rejects.toEqual(failure('EtagConflictError'));
  await expect(batch([missing, wrong])).rejects.toEqual(failure('ObjectNotFoundError'));
  await expect(batch([wrong, nowhere])).rejects.toEqual(failure('EtagConflictError'));
  await expect(batch([nowhere, wrong])).rejects.toEqual(failure('BucketNotFoundError'));
});

test('every operation, in order, in one transaction', async () => {
  for (let n = 1; n <= 3; n++) await store.call('putObject', 'left', `old${n}`, { n }, {});
  await messages.take();
  const requests = [
    { bucket: 'left', key: 'a', value: { n: 10 } },
    { bucket: 'right', operation: 'put', key: 'a', value: { n: 11 } },
    { bucket: 'left', operation: 'delete', key: 'old1' },
    { bucket: 'quiet', key: 'checkpoint', value: {} },
    { bucket: 'left', operation: 'update', fields: { n: 20 }, filter: '(n>=10)' },
    { bucket: 'left', operation: 'deleteMany', filter: '(n<=3)' },
    { bucket: 'left', key: 'a', value: { n: 30 } },
  ];
  const { etags } = await batch(requests, { req_id: 'b3b7d2c4-0000-4000-8000-000000000001' });
  const etag = expect.stringMatching(/^[0-9A-F]{8}$/);
  expect(etags).toEqual([
    { bucket: 'left', key: 'a', etag },
    { bucket: 'right', key: 'a', etag },
    { bucket: 'left', key: 'old1' },
    { bucket: 'quiet', key: 'checkpoint', etag },
    { bucket: 'left', filter: '(n>=10)', count: 1, etag: expect.stringMatching(/^u/) },
    { bucket: 'left', filter: '(n<=3)', count: 2 },
    { bucket: 'left', key: 'a', etag },
  ]);
  const emitted = await messages.take();
  expect(new Set(emitted.map((m) => m.transaction)).size).toBe(1);
  expect(
    emitted.filter((m) => m.body.bucket === 'left' && m.body.key === 'a').map((m) => m.body.value),
  ).toEqual([{ n: 10 }, { n: 20 }, { n: 30 }]);
  expect(emitted).toHaveLength(7);
  for (const m of emitted) expect(m.body.request_id).toBe('b3b7d2c4-0000-4000-8000-000000000001');
});

describe('all or nothing', () => {
  test.each([
    ['an etag', { bucket: 'right', key: 'b', value: {}, options: { etag: 'DEADBEEF' } }, 'EtagConflictError'],
    ['a missing object', { bucket: 'right', operation: 'delete', key: 'nope' }, 'ObjectNotFoundError'],
    ['a type', { bucket: 'right', key: 'b', value: { u: 'a\u0000' } }, 'InvalidIndexTypeError'],
    ['a bucket', { bucket: 'nope', key: 'b', value: {} }, 'BucketNotFoundError'],
    ['a filter', { bucket: 'right', operation: 'deleteMany', filter: '(x' }, 'InvalidQueryError'],
    [
      'a field',
      { bucket: 'right', operation: 'update', filter: '(n=1)', fields: { x: 1 } },
      'NotIndexedError',
    ],
  ])('%s', async (_, request, name) => {
    await messages.take();
    await expect(batch([{ bucket: 'left', key: 'new', value: {} }, request])).rejects.toEqual(failure(name));
    await expect(store.call('getObject', 'left', 'new', {})).rejects.toEqual(failure('ObjectNotFoundError'));
    expect(await messages.take()).toEqual([]);
  });

  test('the error is that of the first request that fails', async () => {
    await store.call('putObject', 'left', 'taken', { u: 'taken' }, {});
    const requests = [
      { bucket: 'left', key: 'c', value: { n: 1 } },
      { bucket: 'right', key: 'c', value: {}, options: { etag: 'DEADBEEF' } },
      { bucket: 'left', key: 'd', value: { u: 'taken' } },
    ];
    await expect(batch(requests)).rejects.toEqual(
      failure('EtagConflictError', { bucket: 'right', key: 'c', expected: 'DEADBEEF', actual: 'null' }),
    );
    await expect(batch([...requests.slice(0, 1), ...requests.slice(2)])).rejects.toEqual(
      failure('UniqueAttributeError', { bucket: 'left', key: 'd', attribute: 'u', value: 'taken' }),
    );
  });

  test('requests that lack something', async () => {
    await expect(batch([{ operation: 'delete' }])).rejects.toThrow(
      "requests[0] should have required property 'bucket'",
    );
    await expect(batch([{ bucket: 'left', key: 'k' }])).rejects.toEqual(failure('InvocationError'));
    await expect(batch([{ bucket: 'left', operation: 'drop' }])).rejects.toThrow(
      'requests[0].operation should be equal to one of the allowed values',
    );
    await expect(store.call('batch', {}, {})).rejects.toThrow(
      'batch expects "requests" (args[0]) to be an array',
    );
    expect(await batch([])).toEqual({ etags: [] });
  });
});

test('a unique value moves from one object to another', async () => {
  await store.call('putObject', 'left', 'from', { u: 'moving' }, {});
  await batch([
    { bucket: 'left', operation: 'delete', key: 'from' },
    { bucket: 'left', key: 'to', value: { u: 'moving' } },
  ]);
  await batch([
    { bucket: 'left', key: 'to', value: { u: 'parked' } },
    { bucket: 'left', key: 'from', value: { u: 'moving' } },
  ]);
  expect(await store.call('findObjects', 'left', '(u=moving)', {})).toMatchObject([{ key: 'from' }]);
});

test('batches that lock the same objects in opposite orders all succeed, each whole', async () => {
  const keys = ['x1', 'x2', 'x3'];
  const write = (s: TestStore, order: string[], by: string) =>
    s.call(
      'batch',
      order.flatMap((key) => [
        { bucket: 'left', key, value: { by } },
        { bucket: 'right', key, value: { by } },
      ]),
      {},
    );
  const orders = [keys, keys.toReversed()];
  await Promise.all(
    Array.from({ length: 40 }, (_, i) => write(i % 3 ? store : other, orders[i % 2] ?? keys, `w${i}`)),
  );
  const found = await store.call('findObjects', 'left', '(_key>=x1)', {});
  const alike = await store.call('findObjects', 'right', '(_key>=x1)', {});
  expect(new Set([...found, ...alike].map((o) => (o as { value: { by: string } }).value.by)).size).toBe(1);
  expect(found).toHaveLength(3);
});

test('of two consumers that commit by the same checkpoint, one gets through', async () => {
  const { etag } = await store.first('putObject', 'quiet', 'c', { at: 0 }, {});
  const commit = (s: TestStore, i: number) =>
    s.call(
      'batch',
      [
        { bucket: 'left', key: 'effect', value: { n: i } },
        { bucket: 'quiet', key: 'c', value: { at: i }, options: { etag } },
      ],
      {},
    );
  const tries = await Promise.allSettled(
    Array.from({ length: 10 }, (_, i) => commit(i % 2 ? store : other, i + 1)),
  );
  expect(tries.filter((t) => t.status === 'fulfilled')).toHaveLength(1);
  for (const t of tries) if (t.status === 'rejected') expect(t.reason).toEqual(failure('EtagConflictError'));
  const effect = await store.first('getObject', 'left', 'effect', {});
  const checkpoint = await store.first('getObject', 'quiet', 'c', {});
  expect(effect.value.n).toBe(checkpoint.value.at);
});

test('of many batches at once over the same objects, in any order and of two buckets, all succeed whole', async () => {
  const keys = Array.from({ length: 10 }, (_, i) => `shared${i}`);
  const shuffled = () => keys.map((key) => ({ key, at: Math.random() })).sort((a, b) => a.at - b.at);
  const calls = Array.from({ length: 256 }, (_, n) => {
    const buckets = n % 4 === 0 ? ['left', 'right'] : n % 4 === 1 ? ['right', 'left'] : ['left'];
    const requests = buckets.flatMap((bucket) =>
      shuffled().map(({ key }) => ({ bucket, key, value: { n } })),
    );
    return (n % 2 ? store : other).first('batch', requests, {});
  });
  const results = await Promise.allSettled(calls);
  expect(results.filter((r) => r.status === 'rejected')).toEqual([]);
  for (const bucket of ['left', 'right']) {
    const found = await store.call('findObjects', bucket, '(_key=shared*)', {});
    expect(found).toHaveLength(10);
    expect(new Set(found.map((o) => (o as { value: { n: number } }).value.n)).size).toBe(1);
  }
});

test('a batch of one bucket is one transaction, and nothing of it is there where one write is refused', async () => {
  await batch([{ bucket: 'left', key: 'w1', value: { n: 1 } }]);
  await messages.take();
  const requests = [
    { bucket: 'left', key: 'w1', value: { n: 2 } },
    { bucket: 'left', key: 'w2', value: { n: 2 } },
    { bucket: 'left', operation: 'delete', key: 'shared0' },
  ];
  const refused = [
    [{ bucket: 'left', key: 'w3', value: {}, options: { etag: 'DEADBEEF' } }, 'EtagConflictError'],
    [{ bucket: 'left', operation: 'delete', key: 'w4' }, 'ObjectNotFoundError'],
    [{ bucket: 'left', key: 'w5', value: {}, options: { etag: null } }, undefined],
  ] as const;
  for (const [request, name] of refused) {
    for (const whole of [
      [request, ...requests],
      [...requests, request],
    ]) {
      if (name === undefined) continue;
      await expect(batch(whole)).rejects.toEqual(failure(name, { key: request.key }));
    }
  }
  expect(await messages.take()).toEqual([]);
  await batch([...requests, refused[2][0]]);
  const emitted = await messages.take();
  expect(emitted.map((m) => m.body.key).sort()).toEqual(['shared0', 'w1', 'w2', 'w5']);
  expect(new Set(emitted.map((m) => m.transaction)).size).toBe(1);
});
