import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { isCongerError } from '../../runtime/errors.ts';
import { spawnKvstore } from '../../test/fixtures/kvstore.ts';
import { moray } from '../../test/fixtures/moray.ts';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { openTestStore, type TestStore } from './testing.ts';

/**
 * SQL where names, values and options are expected. Either it is refused, or it is data; and after each test the
 * database has the tables and rows that it had.
 */

vi.setConfig({ testTimeout: 240_000 });

let postgres: TestPostgres;
let store: TestStore;
let client: pg.Client;

const attacks = [
  `'; DROP TABLE canary; --`,
  `"; DROP TABLE canary; --`,
  `b"; DELETE FROM kv.buckets_config; --`,
  `b') OR 1=1; --`,
  `1) UNION SELECT usename, passwd FROM pg_shadow; --`,
  `a"."b`,
  `a/**/b`,
  `a--b`,
  `$1`,
  `$$; DROP TABLE canary; $$`,
  `\\'; DROP TABLE canary; --`,
  `\u02bc; DROP TABLE canary; --`,
  `\uff07; DROP TABLE canary; --`,
  `\u0000'; DROP TABLE canary`,
  `\ud800'; DROP TABLE canary`,
  `a\n;DROP TABLE canary`,
  `U&"\\0022"`,
  `pg_catalog.pg_class`,
  `canary`,
  `select`,
  `user`,
  `__proto__`,
  `constructor`,
  `toString`,
  'a'.repeat(64),
  'é'.repeat(40),
];

beforeAll(async () => {
  postgres = await startPostgres({ fsync: 'off' });
  store = await openTestStore(postgres.url);
  client = new pg.Client({ connectionString: postgres.url });
  await client.connect();
  await client.query('CREATE TABLE canary AS SELECT 42 AS a');
  await client.query('CREATE TABLE kv.canary AS SELECT 42 AS a');
  const index = { s: { type: 'string' }, u: { type: 'string', unique: true }, n: { type: 'number' } };
  await store.call('createBucket', 'b', { index }, {});
  await store.call('putObject', 'b', 'kept', { s: 'kept', n: 1 }, {});
});

afterAll(async () => {
  await client?.end();
  await store?.store.close();
  await postgres?.stop();
});

/** Tables that are neither the registry's own nor a bucket's. */
async function strangers(): Promise<unknown[]> {
  const { rows } = await client.query<{ name: string }>(
    `SELECT schemaname || '.' || tablename AS name FROM pg_tables
     WHERE schemaname NOT IN ('pg_catalog', 'information_schema') AND tablename NOT LIKE 'bucket.%'
     EXCEPT SELECT 'kv.' || name FROM kv.buckets_config ORDER BY name`,
  );
  return rows.map(({ name }) => name);
}

afterEach(async () => {
  expect(await strangers()).toEqual(['kv.buckets_config', 'kv.canary', 'public.canary']);
  const { rows } = await client.query('SELECT a FROM canary UNION ALL SELECT a FROM kv.canary');
  expect(rows).toEqual([{ a: 42 }, { a: 42 }]);
  expect(await store.first('getObject', 'b', 'kept', {})).toMatchObject({ value: { s: 'kept', n: 1 } });
});

/** The code of the error that a call ends with, or `done`. */
async function outcome(method: string, ...args: unknown[]): Promise<string> {
  try {
    await store.call(method, ...args);
    return 'done';
  } catch (error) {
    if (!isCongerError(error)) throw error;
    return error.code;
  }
}

const isName = (text: string) => /^[a-zA-Z]\w{0,62}$/.test(text);

describe('names of buckets', () => {
  test.each(attacks)('%j', async (name) => {
    const expected =
      name === 'canary' ? 'BucketConflictError' : isName(name) ? 'done' : 'InvalidBucketNameError';
    expect(await outcome('createBucket', name, { index: {} }, {})).toBe(expected);
    if (expected === 'done') {
      await store.call('putObject', name, 'k', { a: 1 }, {});
      expect(await store.first('getObject', name, 'k', {})).toMatchObject({ bucket: name, value: { a: 1 } });
      await store.call('delBucket', name, {});
    }
    for (const call of [
      ['putObject', name, 'k', {}, {}],
      ['getObject', name, 'k', {}],
      ['delObject', name, 'k', {}],
      ['findObjects', name, '(_id>=0)', {}],
      ['updateObjects', name, { s: 'x' }, '(_id>=0)', {}],
      ['deleteMany', name, '(_id>=0)', {}],
      ['reindexObjects', name, 1, {}],
      ['batch', [{ bucket: name, key: 'k', value: {} }], {}],
      ['getBucket', {}, name],
      ['updateBucket', name, { index: {} }, {}],
      ['delBucket', name, {}],
    ] as const) {
      const [method, ...args] = call;
      const refusal = /^(BucketNotFoundError|InvalidBucketNameError)$/;
      expect(await outcome(method, ...args), method).toMatch(
        method === 'delBucket' && name.includes('\0') ? /^InvocationError$/ : refusal,
      );
    }
  });

  test('that are equal in their first 63 bytes are not mixed up', async () => {
    const long = 'x'.repeat(63);
    await store.call('createBucket', long, { index: { f: { type: 'string' } } }, {});
    expect(await outcome('createBucket', `${long}y`, { index: {} }, {})).toBe('InvalidBucketNameError');
    // Their indexes' names would be cut off at the same place.
    const other = `${'x'.repeat(62)}z`;
    await store.call('createBucket', other, { index: { f: { type: 'string' } } }, {});
    await store.call('putObject', long, 'k', { f: '1' }, {});
    expect(await store.call('findObjects', other, '(f=*)', {})).toEqual([]);
    expect(await store.call('findObjects', long, '(f=1)', {})).toHaveLength(1);
    await store.call('delBucket', other, {});
    expect(await store.call('findObjects', long, '(f=1)', {})).toHaveLength(1);
    await store.call('delBucket', long, {});
  });

  test('of other things in the schema are not buckets', async () => {
    for (const name of ['buckets_config', 'canary', 'bucket.changes', 'b._id', 'b._key', 'kv.b']) {
      expect(await outcome('getObject', name, 'k', {})).toBe('BucketNotFoundError');
      expect(await outcome('delBucket', name, {})).toMatch(/^(BucketNotFoundError|InvalidBucketNameError)$/);
    }
  });
});

describe('names of fields', () => {
  const refused = 'InvalidBucketConfigError';

  test.each(attacks)('%j in an index', async (field) => {
    const config = { index: { [field]: { type: 'string', unique: true } } };
    const expected =
      /^[a-zA-Z]([_a-zA-Z0-9]*[a-zA-Z0-9])?$/.test(field) && field.length < 64 ? 'done' : refused;
    // An own property, as it is on the wire.
    const sent = field === '__proto__' ? JSON.parse('{"index":{"__proto__":{"type":"string"}}}') : config;
    expect(await outcome('createBucket', 'fields', sent, {})).toBe(
      field === '__proto__' ? refused : expected,
    );
    if (expected === 'done') {
      await store.call('putObject', 'fields', 'k', { [field]: `it's` }, {});
      expect(await store.call('findObjects', 'fields', `(${field}=it's)`, {})).toHaveLength(1);
      const sorted = { sort: { attribute: field, order: 'DESC' } };
      expect(await store.call('findObjects', 'fields', '(_id>=0)', sorted)).toHaveLength(1);
      await store.call('delBucket', 'fields', {});
    }
    expect(
      await outcome(
        'updateBucket',
        'b',
        { ...config, index: { ...config.index, 'a"b': { type: 'string' } } },
        {},
      ),
    ).toBe(refused);
  });

  test.each(attacks)('%j in updateObjects, and as the partition of a bucket', async (field) => {
    const fields = JSON.parse(`{${JSON.stringify(field)}: "x"}`) as object;
    expect(await outcome('updateObjects', 'b', fields, '(s=kept)', {})).toBe('NotIndexedError');
    expect(await outcome('createBucket', 'part', { index: {}, options: { partition: field } }, {})).toBe(
      'done',
    );
    await store.call('putObject', 'part', 'k', { [field]: field.replaceAll('\0', ''), a: 1 }, {});
    expect(await store.first('getObject', 'part', 'k', {})).toMatchObject({ value: { a: 1 } });
    await store.call('delBucket', 'part', {});
  });

  test.each(attacks)('%j to sort by', async (attribute) => {
    const sort = [{ attribute, order: 'ASC' }];
    expect(await outcome('findObjects', 'b', '(s=kept)', { sort })).toBe('InvalidQueryError');
    expect(
      await outcome('findObjects', 'b', '(s=kept)', { sort: { attribute: 's', order: attribute } }),
    ).toBe('InvocationError');
  });

  test.each(attacks)('%j in a filter', async (attribute) => {
    // Where it is a name at all, no index is called so.
    expect(await outcome('findObjects', 'b', `(${attribute}=x)`, {})).toBe('InvalidQueryError');
    expect(await outcome('findObjects', 'b', `(&(s=kept)(${attribute}=x))`, {})).toMatch(
      /^[-_a-zA-Z0-9]+$/.test(attribute) ? /^done$/ : /^InvalidQueryError$/,
    );
  });
});

describe('values', () => {
  const escaped = (text: string) => text.replace(/[()*\\=]/g, '\\$&');

  test.each(attacks)('%j is data', async (text) => {
    const nul = text.includes('\0');
    const stored = JSON.parse(JSON.stringify({ s: text.replace('\ud800', '\ufffd') })) as { s: string };
    const noKey = nul || text.includes('\ud800');
    const key = noKey ? 'some' : text;
    expect(await outcome('putObject', 'b', text, { s: text, n: 5 }, {})).toBe(
      noKey ? 'InvocationError' : 'done',
    );
    if (noKey && !nul) await store.call('putObject', 'b', key, { s: text, n: 5 }, {});
    for (const filter of [
      `(s=${escaped(text)})`,
      `(s=${escaped(text)}*)`,
      `(u:caseIgnoreMatch:=${escaped(text)})`,
    ]) {
      const found = await outcome('findObjects', 'b', filter, {});
      expect(found).toBe(nul ? 'InvalidQueryError' : 'done');
    }
    if (nul) {
      expect(await outcome('getObject', 'b', text, {})).toBe('ObjectNotFoundError');
      expect(await outcome('putObject', 'b', 'k', { s: text }, {})).toBe('InvalidIndexTypeError');
      return;
    }
    expect(await store.call('findObjects', 'b', `(s=${escaped(text)})`, {})).toMatchObject([
      { value: { s: expect.stringContaining(stored.s.slice(-3)) as string } },
    ]);
    expect(await outcome('putObject', 'b', 'kept', { s: 'no' }, { etag: text })).toBe('EtagConflictError');
    expect(await outcome('delObject', 'b', 'kept', { etag: text })).toBe('EtagConflictError');
    await store.call('delObject', 'b', key, {});
    expect(await store.call('findObjects', 'b', '(n=5)', {})).toEqual([]);
  });

  test('of a unique field come back in its error as they are', async () => {
    for (const [i, text] of attacks.filter((a) => !/[\0\ud800]/.test(a)).entries()) {
      await store.call('putObject', 'b', `u${i}`, { u: text, n: 6 }, {});
      await expect(store.call('putObject', 'b', 'other', { u: text }, {})).rejects.toMatchObject({
        code: 'UniqueAttributeError',
        context: { attribute: 'u', value: text },
      });
    }
    await store.call('deleteMany', 'b', '(n=6)', {});
  });

  test.each(attacks)('%j where a number is wanted', async (text) => {
    for (const options of [{ limit: text }, { offset: text }, { timeout: text }]) {
      expect(await outcome('findObjects', 'b', '(s=kept)', options)).toBe('InvocationError');
    }
    expect(await outcome('reindexObjects', 'b', text, {})).toBe('InvocationError');
    expect(await outcome('createBucket', 'v', { index: {}, options: { version: text } }, {})).toMatch(
      /Error$/,
    );
    expect(await outcome('createBucket', 'v', { index: { f: { type: text } } }, {})).toBe(
      'InvalidBucketConfigError',
    );
  });

  test.each(attacks)('%j as the name of a channel, and on it', async (text) => {
    expect(await outcome('notify', text, text, {})).toMatch(/^(done|InvocationError)$/);
    expect(await outcome('unlisten', text, {})).not.toBe('InternalError');
  });
});

describe('sql', () => {
  const statement = 'SELECT 1 AS a';

  test('is refused unless it is allowed', async () => {
    expect(await outcome('sql', statement, [], {})).toBe('OperationNotAllowedError');
    expect(await outcome('sql', 'DROP TABLE canary', [], {})).toBe('OperationNotAllowedError');
    // The one statement that Moray's clients notify by is no door to others.
    const notify = 'select pg_notify($1, $2)';
    for (const more of [`${notify}; DROP TABLE canary`, `${notify} --`, ` ${notify} FROM canary`]) {
      expect(await outcome('sql', more, ['a', 'b'], {})).toBe('OperationNotAllowedError');
    }
  });

  test('is allowed by CONGER_SQL alone', async () => {
    for (const [value, allowed] of [
      [undefined, false],
      ['false', false],
      ['true', true],
    ] as const) {
      vi.stubEnv('CONGER_SQL', value);
      const server = await spawnKvstore(postgres.url);
      vi.unstubAllEnvs();
      const remote = await moray(server.port);
      try {
        const answered = remote.sql(statement, []);
        if (allowed) expect(await answered).toEqual([{ a: 1 }]);
        else await expect(answered).rejects.toThrow(/not enabled/);
      } finally {
        await remote.close();
        await server.stop();
      }
    }
  });
});
