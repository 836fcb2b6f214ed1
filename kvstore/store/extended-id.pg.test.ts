import { afterAll, beforeAll, expect, test } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { openTestStore, type TestStore } from './testing.ts';

/** Buckets that ran out of 32-bit ids, and go on in `_idx`, as Moray's operators have them do. */

const last32 = 2 ** 31 - 1;
const config = { index: { n: { type: 'number' } }, options: { version: 1 } };

let postgres: TestPostgres;
let store: TestStore;

beforeAll(async () => {
  postgres = await startPostgres();
  store = await openTestStore(postgres.url, { sql: true });
  await store.call('createBucket', 'b', config, {});
  await sql('ALTER TABLE "b" ALTER COLUMN "_id" TYPE INTEGER');
  await sql(`ALTER SEQUENCE "b_serial" RESTART WITH ${last32 - 1}`);
  for (const key of ['a1', 'a2']) await put(key);
  await expect(put('none')).rejects.toMatchObject({
    code: 'InternalError',
    message: expect.stringContaining('no ids left'),
  });
  await sql('ALTER TABLE "b" ADD COLUMN _idx BIGINT');
  await sql(`ALTER TABLE "b" ALTER COLUMN _id DROP DEFAULT,
    ALTER COLUMN _idx SET DEFAULT nextval('b_serial'::regclass)`);
  await store.call('getObject', 'b', 'a1', { noBucketCache: true });
  for (const key of ['b1', 'b2']) await put(key);
});

afterAll(async () => {
  await store?.store.close();
  await postgres?.stop();
});

async function sql(text: string): Promise<void> {
  await store.call('sql', text, [], {});
}

async function put(key: string, value: object = { n: 1 }): Promise<void> {
  await store.call('putObject', 'b', key, value, {});
}

async function find(filter: string, options: object = {}): Promise<string[]> {
  const found = (await store.call('findObjects', 'b', filter, options)) as { key: string }[];
  return found.map(({ key }) => key);
}

test('ids go on in the other column', async () => {
  const ids = await Promise.all(
    ['a1', 'a2', 'b1', 'b2'].map(async (key) => (await store.first('getObject', 'b', key, {}))._id),
  );
  // The put that failed took one.
  expect(ids).toEqual([last32 - 1, last32, last32 + 2, last32 + 3]);
});

test.each([
  ['(_id>=0)', ['a1', 'a2', 'b1', 'b2']],
  ['(_id=*)', ['a1', 'a2', 'b1', 'b2']],
  [`(_id>=${last32})`, ['a2', 'b1', 'b2']],
  [`(_id<=${last32 + 2})`, ['a1', 'a2', 'b1']],
  [`(_id=${last32 + 3})`, ['b2']],
  [`(!(_id=${last32}))`, ['a1', 'b1', 'b2']],
])('%s', async (filter, keys) => {
  expect(await find(filter, { sort: { attribute: '_id', order: 'ASC' } })).toEqual(keys);
  expect(await find(filter, { sort: { attribute: '_id', order: 'DESC' } })).toEqual(keys.reverse());
});

test('updateObjects, deleteMany and reindexObjects reach both', async () => {
  await put('a3');
  expect(await store.first('updateObjects', 'b', { n: 2 }, `(_id>=${last32})`, {})).toMatchObject({
    count: 4,
  });
  await store.call(
    'updateBucket',
    'b',
    { index: { ...config.index, m: { type: 'number' } }, options: { version: 2 } },
    {},
  );
  expect(await store.first('reindexObjects', 'b', 100, {})).toEqual({ processed: 5, remaining: 0 });
  expect(await store.first('reindexObjects', 'b', 100, {})).toEqual({ processed: 0, remaining: 0 });
  expect(await store.first('deleteMany', 'b', `(_id>=${last32 + 4})`, {})).toMatchObject({ count: 1 });
  expect(await find('(n=2)')).toHaveLength(3);
});

test('an id that JavaScript cannot hold is neither given nor read', async () => {
  await sql(`ALTER SEQUENCE "b_serial" RESTART WITH ${Number.MAX_SAFE_INTEGER}`);
  await put('last');
  await expect(put('none')).rejects.toMatchObject({
    code: 'InternalError',
    message: expect.stringContaining('no ids left'),
  });
  const impossible = String(2n ** 55n);
  await sql(`UPDATE "b" SET _idx = ${impossible} WHERE _key = 'last'`);
  for (const call of ['getObject', 'delObject']) {
    await expect(store.call(call, 'b', 'last', {})).rejects.toMatchObject({
      code: 'InternalError',
      message: `b::last has an invalid _id: ${impossible}`,
    });
  }
  await expect(find('(_id>=0)')).rejects.toMatchObject({ message: expect.stringContaining('invalid _id') });
  await expect(store.call('delObject', 'b', 'nosuch', {})).rejects.toMatchObject({
    code: 'ObjectNotFoundError',
  });
});

test('a bucket goes with its sequence, and long names have one', async () => {
  const long = 'l'.repeat(63);
  await store.call('createBucket', long, config, {});
  await store.call('putObject', long, 'k', { n: 1 }, {});
  expect((await store.first('getObject', long, 'k', {}))._id).toBe(1);
  for (const name of ['b', long]) await store.call('delBucket', name, {});
  expect(
    await store.call(
      'sql',
      `SELECT relname FROM pg_class WHERE relkind = 'S' AND relname ~ 'serial'`,
      [],
      {},
    ),
  ).toEqual([]);
});
