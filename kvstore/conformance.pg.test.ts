import { once } from 'node:events';
import { createRequire } from 'node:module';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Moray, moray } from '../test/fixtures/moray.ts';
import { type MorayServer, startMorayServer } from '../test/fixtures/moray-server.ts';

/** The npm package `moray`, unmodified, against our server: what it makes of our answers is what counts. */

const require = createRequire(import.meta.url);
const VError: { hasCauseWithName(error: Error, name: string): boolean; info(error: Error): object } =
  require('verror');

const bucket = 'conformance';
const config = {
  index: {
    name: { type: 'string' },
    num: { type: 'number' },
    flag: { type: 'boolean' },
    ip: { type: 'ip' },
    mac: { type: 'mac', unique: true },
    tags: { type: '[string]' },
  },
  options: { version: 1 },
};

let server: MorayServer;
let client: Moray;

beforeAll(async () => {
  server = await startMorayServer();
  client = server.client;
  await client.createBucket(bucket, config);
});

afterAll(async () => {
  await server?.stop();
});

async function failure(promise: Promise<unknown>): Promise<Error> {
  const error = await promise.then(
    () => undefined,
    (e: unknown) => e,
  );
  if (!(error instanceof Error)) throw new Error('the call did not fail');
  return error;
}

async function expectError(promise: Promise<unknown>, name: string): Promise<Error> {
  const error = await failure(promise);
  expect(VError.hasCauseWithName(error, name), `${name}, not ${error.message}`).toBe(true);
  return error;
}

describe('the connection', () => {
  test('ping, deep and shallow, and version', async () => {
    // By itself the client waits for a second.
    await client.ping({ timeout: 30_000 });
    await client.ping({ deep: true, timeout: 30_000 });
    expect(await client.version()).toBeGreaterThanOrEqual(2);
  });

  test.each([1, 2])('protocol version %i', async (version) => {
    const { FastClient } = require('fast');
    const socket = connect(server.port, '127.0.0.1');
    await once(socket, 'connect');
    const log = require('bunyan').createLogger({ name: 'fast', level: 'fatal' });
    const fast = new FastClient({ log, nRecentRequests: 1, transport: socket, version });
    const rpcargs = [bucket, 'größe', { name: 'größe 𝄞' }, { req_id: crypto.randomUUID() }];
    const request = fast.rpc({ rpcmethod: 'putObject', rpcargs });
    const [answer] = await once(request, 'data');
    expect(answer).toMatchObject({ etag: expect.any(String) });
    socket.destroy();
    expect((await client.getObject(bucket, 'größe')).value).toEqual({ name: 'größe 𝄞' });
  });
});

describe('buckets', () => {
  test('create, get, list, update, delete', async () => {
    await client.createBucket('b1', { index: { a: { type: 'string' } }, options: { version: 1 } });
    await expectError(client.createBucket('b1', { index: {} }), 'BucketConflictError');
    await client.updateBucket('b1', {
      index: { a: { type: 'string' }, b: { type: 'number' } },
      options: { version: 2 },
    });
    await expectError(
      client.updateBucket('b1', { index: { a: { type: 'string' } }, options: { version: 1 } }),
      'BucketVersionError',
    );
    expect(await client.getBucket('b1')).toMatchObject({
      name: 'b1',
      index: { a: { type: 'string' }, b: { type: 'number' } },
      options: { version: 2 },
      pre: [],
      post: [],
      mtime: expect.any(Date),
    });
    expect((await client.listBuckets()).map((b) => b.name)).toContain('b1');
    await client.delBucket('b1');
    await expectError(client.getBucket('b1'), 'BucketNotFoundError');
  });

  test('putBucket, as services call it at their start', async () => {
    await client.putBucket('b2', config);
    await client.putBucket('b2', config);
    await client.putBucket('b2', { ...config, options: { version: 2 } });
    expect((await client.getBucket('b2')).options).toMatchObject({ version: 2 });
  });

  test('names and indexes that are not valid', async () => {
    await expectError(client.createBucket('no-dashes', { index: {} }), 'InvalidBucketNameError');
    await expectError(
      client.createBucket('b3', { index: { a: { type: 'nosuch' } } }),
      'InvalidBucketConfigError',
    );
  });
});

describe('objects', () => {
  const value = { name: 'a', num: 1, flag: true, ip: '10.0.0.1', tags: ['x', 'y'], deep: { er: [null] } };

  test('put, get, delete', async () => {
    const { etag } = await client.putObject(bucket, 'k', value);
    expect(await client.getObject(bucket, 'k')).toMatchObject({
      bucket,
      key: 'k',
      value,
      _etag: etag,
      _id: expect.any(Number),
      _mtime: expect.any(Number),
    });
    await client.delObject(bucket, 'k');
    await expectError(client.getObject(bucket, 'k'), 'ObjectNotFoundError');
    await expectError(client.delObject(bucket, 'k'), 'ObjectNotFoundError');
    await expectError(client.getObject('nosuch', 'k'), 'BucketNotFoundError');
  });

  test('EtagConflictError, with its context', async () => {
    const { etag } = await client.putObject(bucket, 'e', value, { etag: null });
    await expectError(client.putObject(bucket, 'e', value, { etag: null }), 'EtagConflictError');
    const error = await expectError(
      client.putObject(bucket, 'e', { ...value, num: 2 }, { etag: 'DEADBEEF' }),
      'EtagConflictError',
    );
    expect(error.message).toContain(`${bucket}::e was expected to have etag "DEADBEEF", but was "${etag}"`);
    expect(VError.info(error)).toMatchObject({ bucket, key: 'e', expected: 'DEADBEEF', actual: etag });
    await expectError(client.delObject(bucket, 'e', { etag: 'DEADBEEF' }), 'EtagConflictError');
    await client.putObject(bucket, 'e', { ...value, num: 2 }, { etag });
    expect((await client.getObject(bucket, 'e')).value).toMatchObject({ num: 2 });
  });

  test('UniqueAttributeError', async () => {
    await client.putObject(bucket, 'u1', { mac: '90:b8:d0:00:00:01' });
    const error = await expectError(
      client.putObject(bucket, 'u2', { mac: '90:b8:d0:00:00:01' }),
      'UniqueAttributeError',
    );
    expect(error.message).toContain('"mac" is a unique attribute; value "90:b8:d0:00:00:01" already exists');
    await expectError(client.getObject(bucket, 'u2'), 'ObjectNotFoundError');
  });

  test('unwrapped errors keep their name', async () => {
    const unwrapping = await moray(server.port, { unwrapErrors: true });
    expect(await failure(unwrapping.getObject(bucket, 'nosuch'))).toMatchObject({
      name: 'ObjectNotFoundError',
      message: `${bucket}::nosuch does not exist`,
    });
    await unwrapping.close();
  });

  test('a value that does not fit its index', async () => {
    await expectError(client.putObject(bucket, 'i', { ip: 'no address' }), 'InvalidIndexTypeError');
  });

  test('a client’s calls overlap', async () => {
    const keys = Array.from({ length: 200 }, (_, i) => `many${i}`);
    await Promise.all(keys.map((key, i) => client.putObject(bucket, key, { name: 'many', num: i })));
    const objects = await Promise.all(keys.map((key) => client.getObject(bucket, key)));
    expect(objects.map((o) => o.value.num)).toEqual(keys.map((_, i) => i));
  });
});

describe('find', () => {
  beforeAll(async () => {
    await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        client.putObject(bucket, `find${i}`, {
          name: `find ${i % 4}`,
          num: i + 1000,
          flag: i % 2 === 0,
          tags: [`t${i % 5}`, 'all'],
        }),
      ),
    );
  });

  test('filters, order, limit and count', async () => {
    const found = await client.findObjects(bucket, '(&(num>=1000)(num<=1019)(!(flag=false)))', {
      sort: { attribute: 'num', order: 'DESC' },
      limit: 3,
      offset: 1,
    });
    expect(found.map((o) => o.value.num)).toEqual([1016, 1014, 1012]);
    expect(found.map((o) => o._count)).toEqual([10, 10, 10]);
  });

  test('substrings, presence and arrays', async () => {
    const keys = async (filter: string) =>
      (await client.findObjects(bucket, filter)).map((o) => o.key).length;
    expect(await keys('(name=find 1*)')).toBe(5);
    expect(await keys('(&(tags=t3)(name=*))')).toBe(4);
    expect(await keys('(|(num=1000)(num=1001)(num=-9))')).toBe(2);
  });

  test('invalid filters and fields without an index', async () => {
    await expectError(client.findObjects(bucket, '(num=1'), 'InvalidQueryError');
    await expectError(client.findObjects(bucket, '(nosuch=1)', { requireIndexes: true }), 'NotIndexedError');
    expect(await client.findObjects(bucket, '(num=1000)', { requireIndexes: true })).toHaveLength(1);
  });
});

describe('batch', () => {
  test('happens whole', async () => {
    await client.putObject(bucket, 'gone', { num: 1 });
    const { etags } = await client.batch([
      { bucket, operation: 'put', key: 'b1', value: { num: 5001, name: 'batch' } },
      { bucket, operation: 'delete', key: 'gone' },
      { bucket, operation: 'update', fields: { name: 'updated' }, filter: '(num=5001)' },
    ]);
    expect(etags).toHaveLength(3);
    expect(etags[0]).toMatchObject({ bucket, key: 'b1', etag: expect.any(String) });
    expect((await client.getObject(bucket, 'b1')).value).toMatchObject({ name: 'updated' });
    await expectError(client.getObject(bucket, 'gone'), 'ObjectNotFoundError');
  });

  test('or not at all', async () => {
    await client.putObject(bucket, 'there', { num: 1 });
    await expectError(
      client.batch([
        { bucket, operation: 'put', key: 'b2', value: { num: 1 } },
        { bucket, operation: 'put', key: 'there', value: { num: 2 }, options: { etag: 'DEADBEEF' } },
      ]),
      'EtagConflictError',
    );
    await expectError(client.getObject(bucket, 'b2'), 'ObjectNotFoundError');
    expect((await client.getObject(bucket, 'there')).value).toEqual({ num: 1 });
  });
});

test('updateObjects and deleteMany', async () => {
  await Promise.all([1, 2, 3].map((n) => client.putObject(bucket, `m${n}`, { name: 'mass', num: 7000 + n })));
  expect(await client.updateObjects(bucket, { flag: true }, '(name=mass)')).toMatchObject({ count: 3 });
  expect((await client.getObject(bucket, 'm2')).value).toMatchObject({ flag: true, num: 7002 });
  expect(await client.deleteMany(bucket, '(&(name=mass)(num>=7002))')).toMatchObject({ count: 2 });
  expect(await client.findObjects(bucket, '(name=mass)')).toHaveLength(1);
});

test('sql', async () => {
  expect(await client.sql('SELECT 1 + $1::int AS two', [1])).toEqual([{ two: 2 }]);
});
