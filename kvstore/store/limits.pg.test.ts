import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { openTestStore, type TestStore } from './testing.ts';

let postgres: TestPostgres;
let store: TestStore;

beforeAll(async () => {
  postgres = await startPostgres({ fsync: 'off' });
  store = await openTestStore(postgres.url);
  const index = {
    name: { type: 'string', unique: true },
    text: { type: 'string' },
    tags: { type: '[string]' },
    n: { type: 'number' },
  };
  await store.call('createBucket', 'b', { index }, {});
});

afterAll(async () => {
  await store?.store.close();
  await postgres?.stop();
});

/** Text that does not compress. */
function noise(length: number): string {
  return randomBytes(length).toString('base64').slice(0, length);
}

const put = (key: string, value: object) => store.first('putObject', 'b', key, value, {});
const keys = async (filter: string) =>
  (await store.call('findObjects', 'b', filter, {})).map((o) => (o as { key: string }).key).sort();

describe('a value that is longer than its index takes is refused by name', () => {
  test.each([
    ['name', 4_000, 2704],
    ['name', 100_000, 8191],
    ['text', 4_000, 2704],
    ['text', 100_000, 8191],
    ['tags', 4_000, 2712],
  ])('%s of %i', async (field, length, limit) => {
    const value = { [field]: field === 'tags' ? ['a', noise(length)] : noise(length), n: 1 };
    await expect(put(`long-${field}`, value)).rejects.toMatchObject({
      code: 'InvocationError',
      context: { bucket: 'b', key: `long-${field}`, field },
      message: expect.stringContaining(`"${field}" is too long for its index`) as string,
    });
    await expect(put(`long-${field}`, value)).rejects.toHaveProperty('context.limit', limit);
  });

  test('a key as well', async () => {
    await expect(put(noise(4_000), {})).rejects.toMatchObject({
      code: 'InvocationError',
      context: { field: '_key', limit: 2704 },
    });
  });

  test('and nothing else of its group is lost', async () => {
    const writes = Array.from({ length: 100 }, (_, i) =>
      put(`group-${i}`, { name: i % 33 === 7 ? noise(5_000) : `group-${i}`, n: 77 }),
    );
    const outcomes = await Promise.allSettled(writes);
    const failed = outcomes.flatMap((o, i) => (o.status === 'rejected' ? [i] : []));
    expect(failed).toEqual([7, 40, 73]);
    expect(await keys('(n=77)')).toHaveLength(97);
  });

  test('in a batch, which then happens not at all', async () => {
    const requests = [1, 2, 3].map((i) => ({
      bucket: 'b',
      key: `batch-${i}`,
      value: { n: 78, name: i === 2 ? noise(5_000) : `batch-${i}` },
    }));
    await expect(store.call('batch', requests, {})).rejects.toMatchObject({
      code: 'InvocationError',
      context: { key: 'batch-2', field: 'name' },
    });
    expect(await keys('(n=78)')).toEqual([]);
  });
});

test('what compresses to less is taken', async () => {
  await put('long', { text: 'x'.repeat(100_000), n: 79 });
  expect(await keys(`(text=${'x'.repeat(100_000)})`)).toEqual(['long']);
});

test('a value that is nested more deeply than can be written is refused', async () => {
  const deep = JSON.parse(`${'['.repeat(100_000)}${']'.repeat(100_000)}`);
  for (const value of [{ deep }, { text: deep }, { tags: deep }]) {
    const call = { args: ['b', 'deep', value, {}], send: async () => {}, sendJson: async () => {} };
    const answered = store.store.rpcs.putObject?.({ ...call, signal: new AbortController().signal });
    await expect(answered).rejects.toMatchObject({
      code: expect.stringMatching(/^(InvocationError|InvalidIndexTypeError)$/) as string,
    });
  }
});

test('a filter of more values than a statement takes is refused, one of many is answered', async () => {
  await store.call('createBucket', 'short', { index: { s: { type: 'string' } } }, {});
  await store.call('putObject', 'short', 'k', { s: 'x' }, {});
  const find = (count: number) => store.call('findObjects', 'short', `(|${'(s=)'.repeat(count)}(s=x))`, {});
  expect(await find(1_000)).toHaveLength(1);
  await expect(find(65_534)).rejects.toMatchObject({
    code: 'InvalidQueryError',
    message: expect.stringContaining('more than 65535 values') as string,
  });
});

test('updateObjects and deleteMany over more than a statement may hold', async () => {
  const index = { n: { type: 'number' }, size: { type: 'number' } };
  await store.call('createBucket', 'large', { index, options: { feed: false } }, {});
  const sizes = Array.from({ length: 60 }, (_, i) => [10, 40_000, 1_000_000][i % 3] ?? 0);
  for (const [i, size] of sizes.entries()) {
    await store.call('putObject', 'large', `k${i}`, { n: 1, size, text: 'x'.repeat(size) }, {});
  }
  expect(await store.first('updateObjects', 'large', { n: 2 }, '(n=1)', {})).toMatchObject({ count: 60 });
  const found = (await store.call('findObjects', 'large', '(n=2)', { sort: { attribute: '_id' } })) as {
    value: { size: number; text: string };
  }[];
  expect(found.map(({ value }) => value.text.length)).toEqual(sizes);
  expect(await store.first('deleteMany', 'large', '(size>=20)', {})).toMatchObject({ count: 40 });
  expect(await store.call('findObjects', 'large', '(n=2)', {})).toHaveLength(20);
});

test('a timeout of more than PostgreSQL knows is as good as none', async () => {
  const timeout = Number.MAX_SAFE_INTEGER;
  await store.call('putObject', 'b', 'patient', { n: 90 }, { timeout });
  expect(await store.call('findObjects', 'b', '(n=90)', { timeout })).toHaveLength(1);
  expect(await store.first('updateObjects', 'b', { n: 91 }, '(n=90)', { timeout })).toMatchObject({
    count: 1,
  });
  for (const requests of [[], [{ operation: 'deleteMany', bucket: 'b', filter: '(n=91)' }]]) {
    await store.call('batch', requests, { timeout });
  }
  expect(await store.call('findObjects', 'b', '(n>=90)', {})).toEqual([]);
});
