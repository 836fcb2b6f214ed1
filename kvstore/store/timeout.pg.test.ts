import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { openTestStore, type TestStore } from './testing.ts';

/** Moray's option `timeout`: a call that waits longer for PostgreSQL fails, and has done nothing. */

let postgres: TestPostgres;
let store: TestStore;
let blocker: pg.Client;

beforeAll(async () => {
  postgres = await startPostgres();
  store = await openTestStore(postgres.url);
  blocker = new pg.Client(postgres.url);
  await blocker.connect();
  await store.call('createBucket', 'slow', { index: { n: { type: 'number' } } }, {});
  await store.call('putObject', 'slow', 'k', { n: 1 }, {});
});

afterAll(async () => {
  await blocker?.end();
  await store?.store.close();
  await postgres?.stop();
});

test.each([
  ['putObject', 'slow', 'k', { n: 2 }],
  ['delObject', 'slow', 'k'],
  ['batch', [{ bucket: 'slow', key: 'k', value: { n: 2 } }]],
  ['updateObjects', 'slow', { n: 2 }, '(n=1)'],
  ['deleteMany', 'slow', '(n=1)'],
  ['getObject', 'slow', 'k'],
  ['findObjects', 'slow', '(n=1)'],
])('%s', async (method, ...args) => {
  await blocker.query('BEGIN');
  try {
    await blocker.query('LOCK TABLE kv.slow IN ACCESS EXCLUSIVE MODE');
    await expect(store.call(method, ...args, { timeout: 100 })).rejects.toMatchObject({
      name: 'QueryTimeoutError',
    });
  } finally {
    await blocker.query('ROLLBACK');
  }
  expect(await store.call('findObjects', 'slow', '(n=1)', {})).toMatchObject([{ key: 'k', value: { n: 1 } }]);
  await store.call(method, ...args, { timeout: 50_000 });
  await store.call('putObject', 'slow', 'k', { n: 1 }, {});
});
