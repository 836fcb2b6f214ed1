import { execFile } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { fastCall, type Moray, moray } from '../test/fixtures/moray.ts';
import { type MorayServer, startMorayServer } from '../test/fixtures/moray-server.ts';

/** Where Moray's clients look closely: errors' words, reindexing, arrays under scalar indexes, listening, programs. */

const run = promisify(execFile);
const programs = join(dirname(createRequire(import.meta.url).resolve('moray')), '..', 'bin');

let server: MorayServer;
let client: Moray;

beforeAll(async () => {
  server = await startMorayServer();
  client = server.client;
});

afterAll(async () => {
  await server?.stop();
});

describe('calls that are not valid', () => {
  const signatures = {
    ...{ createBucket: 3, getBucket: 2, listBuckets: 1, updateBucket: 3, delBucket: 2, putObject: 4 },
    ...{ getObject: 3, delObject: 3, findObjects: 3, updateObjects: 4, deleteMany: 3, reindexObjects: 3 },
    ...{ batch: 2, getTokens: 1, sql: 3, ping: 1, version: 1, listen: 2, unlisten: 2 },
  };
  test.each(Object.entries(signatures))('%s takes %i arguments', async (method, count) => {
    const s = count === 1 ? '' : 's';
    const error = { name: 'InvocationError', message: `${method} expects ${count} argument${s}` };
    expect(await fastCall(server.port, method, Array(count - 1).fill({}))).toEqual(error);
    expect(await fastCall(server.port, method, Array(count + 1).fill({}))).toEqual(error);
  });

  test.each<[method: string, args: unknown[], message: string]>([
    ['putObject', ['b', 'k', [1], {}], '"value" (args[2]) to be an object'],
    ['getObject', ['', 'k', {}], '"bucket" (args[0]) to be a nonempty string'],
    ['delObject', ['b', 1, {}], '"key" (args[1]) to be a nonempty string'],
    ['reindexObjects', ['b', 1.5, {}], '"count" (args[1]) to be a nonnegative integer'],
    [
      'ping',
      [{ deep: 1 }],
      '"options" (args[0]) to be a valid options object: options.deep should be boolean',
    ],
    ['ping', [null], 'to be a valid options object: options should be object'],
    ['sql', ['x', [], { timeout: -1 }], 'options.timeout should be >= 0'],
    ['sql', ['x', [], { req_id: 'x' }], 'options.req_id should match format "uuid"'],
    [
      'findObjects',
      ['b', '(a=1)', { sort: { attribute: 'a', order: 'up' } }],
      'options.sort.order should be equal to one of the allowed values ("ASC", "DESC")',
    ],
    ['batch', [[{ key: 'k' }], {}], "requests[0] should have required property 'bucket'"],
  ])('%s %j', async (method, args, message) => {
    expect(await fastCall(server.port, method, args)).toEqual({
      name: 'InvocationError',
      message: expect.stringContaining(message),
    });
  });

  test.each<[config: object, message: string]>([
    [{ index: [] }, 'bucket.index should be object'],
    [{ index: { a: null } }, "bucket.index['a'] should be object"],
    [{ index: { a: {} } }, "bucket.index['a'] should have required property 'type'"],
    [{ index: { a: { type: 'x' } } }, "bucket.index['a'].type should be equal to one of the allowed values"],
    [{ index: { a: { type: 'ip', unique: 1 } } }, "bucket.index['a'].unique should be boolean"],
    [{ index: { a: { type: 'ip', x: 1 } } }, "bucket.index['a'] should NOT have additional properties"],
    [{ options: 'x' }, 'bucket.options should be object'],
    [{ options: { version: '1' } }, 'bucket.options.version should be integer'],
    [{ options: { version: 1.5 } }, 'bucket.options.version should be integer'],
    [{ options: { version: -1 } }, 'bucket.options.version should be >= 0'],
    [{ pre: 'x' }, 'bucket.pre should be array'],
  ])('createBucket %j', async (config, message) => {
    expect(await fastCall(server.port, 'createBucket', ['bad', config, {}])).toEqual({
      name: 'InvalidBucketConfigError',
      message: expect.stringContaining(message),
    });
  });
});

describe('a bucket that is being reindexed', () => {
  const v1 = { index: { old: { type: 'string' } }, options: { version: 1 } };
  const v2 = { index: { ...v1.index, fresh: { type: 'string' } }, options: { version: 2 } };
  let bucket: string;

  beforeEach(async (context) => {
    bucket = `reindex_${context.task.id.replace(/\W/g, '')}`;
    await client.createBucket(bucket, v1);
    await client.putObject(bucket, 'k', { old: 'a', fresh: 'b' });
    await client.updateBucket(bucket, v2);
  });

  async function reindex(): Promise<unknown[]> {
    return [await client.reindexObjects(bucket, 10), await client.reindexObjects(bucket, 10)];
  }
  const done = [
    { processed: 1, remaining: 0 },
    { processed: 0, remaining: 0 },
  ];

  test('requireIndexes names the fields, as Moray lists them', async () => {
    const filter = '(&(old=a)(fresh=b)(none=c))';
    const words = `${bucket} does not have indexes that support ${filter}. Reindexing fields: [ 'fresh' ]. Unindexed fields: [ 'none' ]`;
    await expect(client.findObjects(bucket, filter, { requireIndexes: true })).rejects.toThrow(words);
    const strict = await moray(server.port, { requireIndexes: true });
    await expect(strict.findObjects(bucket, filter)).rejects.toThrow(words);
    await strict.close();
    await reindex();
    expect(await client.findObjects(bucket, '(fresh=b)', { requireIndexes: true })).toHaveLength(1);
  });

  test('updateObjects leaves an object to reindexObjects', async () => {
    await client.updateObjects(bucket, { old: 'c' }, '(old=a)');
    expect(await reindex()).toEqual(done);
    expect((await client.findObjects(bucket, '(&(old=c)(fresh=b))')).map((o) => o.key)).toEqual(['k']);
  });

  test('a put does not', async () => {
    await client.putObject(bucket, 'k', { old: 'a', fresh: 'd' });
    expect(await reindex()).toEqual([done[1], { processed: 0 }]);
  });

  test.each<[string, () => Promise<unknown>]>([
    ['deleteMany', () => client.deleteMany(bucket, '(fresh=b)')],
    ['updateObjects by the field', () => client.updateObjects(bucket, { old: 'c' }, '(fresh=b)')],
    ['updateObjects of the field', () => client.updateObjects(bucket, { fresh: 'c' }, '(old=a)')],
  ])('%s is refused', async (_what, call) => {
    await expect(call()).rejects.toThrow('does not have indexes that support');
    expect(await reindex()).toEqual(done);
  });
});

test('updateObjects sets the index of an array under a scalar field, and leaves the array', async () => {
  await client.createBucket('scalar', { index: { s: { type: 'string' }, a: { type: '[string]' } } });
  await client.putObject('scalar', 'k', { s: ['x'], a: ['x'] });
  await client.updateObjects('scalar', { s: 'y', a: ['y'] }, '(s=x)');
  expect((await client.getObject('scalar', 'k')).value).toEqual({ s: ['x'], a: ['y'] });
  expect(await client.findObjects('scalar', '(&(s=y)(a=y))')).toHaveLength(1);
});

describe('sql', () => {
  test('has its timeout', async () => {
    const call = fastCall(server.port, 'sql', ['SELECT pg_sleep(60)', [], { timeout: 20 }]);
    expect(await call).toMatchObject({ name: 'QueryTimeoutError' });
  });

  test('answers the rows of several statements', async () => {
    expect(await client.sql('SELECT 1 AS a; SELECT 2 AS b', [])).toEqual([{ a: 1 }, { b: 2 }]);
    await expect(client.sql('SELECT 1; BOGUS', [])).rejects.toThrow('syntax error');
  });
});

test('listen, notify, unlisten', async () => {
  const other = await moray(server.port);
  const listener = client.listen('Conformance-1');
  const heard: unknown[] = [];
  const ended = (async () => {
    for await (const notification of listener) heard.push(notification);
  })();
  // Nothing says when it hears.
  for (let i = 0; heard.length === 0; i++) await other.notify('Conformance-1', `${i}`);
  await other.notify('Conformance-1', '{"data": "last"}');
  const last = { channel: 'Conformance-1', payload: '{"data": "last"}' };
  await expect.poll(() => heard.at(-1), { timeout: 30_000 }).toEqual(last);
  await new Promise<void>((resolve, reject) => {
    listener.unlisten((error) => (error ? reject(error) : resolve()));
  });
  const count = heard.length;
  await other.notify('Conformance-1', 'too late');
  await other.close();
  await ended;
  expect(heard).toHaveLength(count);
});

describe('the client’s programs', () => {
  const program = async (name: string, ...args: string[]) => {
    const env = { PATH: process.env.PATH, MORAY_URL: server.url };
    return (await run(process.execPath, ['--no-deprecation', join(programs, name), ...args], { env })).stdout;
  };

  test('a bucket’s life', { timeout: 180_000 }, async () => {
    await program('putbucket', '-x', '1', '-i', 'n:number', 'cli');
    const [bucket] = await Promise.all([
      program('getbucket', 'cli'),
      program('putobject', '-d', '{"n": 5}', 'cli', 'k'),
    ]);
    expect(JSON.parse(bucket)).toMatchObject({
      ...{ name: 'cli', index: { n: { type: 'number' } }, pre: [], post: [], options: { version: 1 } },
      mtime: expect.stringMatching(/^\d{4}-.*Z$/),
    });
    const [object, found, rows] = await Promise.all([
      program('getobject', 'cli', 'k'),
      program('findobjects', '-Hi', 'cli', 'n>=3'),
      program('sql', 'select 8+8 as n'),
      expect(program('getobject', 'cli', 'nosuch')).rejects.toThrow('cli::nosuch does not exist'),
    ]);
    expect(JSON.parse(object)).toMatchObject({ _id: 1, value: { n: 5 } });
    expect(found).toContain('"key":"k"');
    expect(JSON.parse(rows.trim())).toEqual({ n: 16 });
    await program('delbucket', 'cli');
  });
});
