import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { toWire } from '../fast/errors.ts';
import type { Hook } from '../hooks/hook.ts';
import { openTestStore, type TestStore } from './testing.ts';
import { Messages } from './testing-messages.ts';

let postgres: TestPostgres;
/** Has the hooks by name, and runs no other code. */
let store: TestStore;
/** Has no hook by name, and runs whatever it is sent. */
let trusting: TestStore;
let messages: Messages;

/** What the hooks were called with. */
const calls: Record<string, unknown>[] = [];

const named: Record<string, Hook> = {
  setUid(request) {
    request.value = { ...request.value, uid: 7, upper: String(request.value?.name).toUpperCase() };
  },
  async refuse(request) {
    if (request.value?.bad) throw Object.assign(new Error('email is required'), { name: 'EmailError' });
  },
  async stamp(request) {
    if (!request.update) request.value = { ...request.value, created: true };
  },
  async audit(request) {
    const { bucket, key, value, id, etag, headers, update, schema } = request;
    calls.push({ bucket, key, value, id, etag, headers, update, schema });
    await request.pg.query('INSERT INTO audit VALUES ($1, $2)', [key, id]);
  },
  async failAfter(request) {
    await request.pg.query("INSERT INTO audit VALUES ('lost', 0)");
    throw Object.assign(new Error('no'), { name: 'PostError', context: { why: 'test' } });
  },
  async ask() {
    throw Object.assign(new Error('connect ECONNREFUSED 10.0.0.1:80'), { code: 'ECONNREFUSED' });
  },
  rename(request) {
    request.key = `${request.key}.renamed`;
  },
  empty(request) {
    request.value = undefined;
  },
};

const index = { name: { type: 'string', unique: true }, uid: { type: 'number' } };

beforeAll(async () => {
  postgres = await startPostgres({ fsync: 'off' });
  store = await openTestStore(postgres.url, { hooks: new Map(Object.entries(named)) });
  trusting = await openTestStore(postgres.url, { sql: true });
  messages = await Messages.open(postgres.url);
  await trusting.call('sql', 'CREATE TABLE kv.audit (key text, id bigint)', [], {});
});

afterAll(async () => {
  await messages?.close();
  await store?.store.close();
  await trusting?.store.close();
  await postgres?.stop();
});

let buckets = 0;

async function bucket(hooks: { pre?: unknown[]; post?: unknown[] }, by = store): Promise<string> {
  const name = `hooked${buckets++}`;
  await by.call('createBucket', name, { index, options: { version: 1 }, ...hooks }, {});
  return name;
}

function keysOf(found: unknown[]): string[] {
  return found.map((object) => (object as { key: string }).key);
}

async function audited(key: string): Promise<unknown[]> {
  return trusting.call('sql', 'SELECT id FROM audit WHERE key = $1', [key], {});
}

describe('registered hooks', () => {
  test('a pre hook changes the value, and the indexes with it', async () => {
    const name = await bucket({ pre: ['setUid'] });
    const { etag } = await store.first('putObject', name, 'k', { name: 'ann' }, {});
    const value = { name: 'ann', uid: 7, upper: 'ANN' };
    expect(await store.first('getObject', name, 'k', {})).toMatchObject({ value, _etag: etag });
    expect(keysOf(await store.call('findObjects', name, '(uid=7)', {}))).toEqual(['k']);
  });

  test('the text of a function with a registered name stands for it, and is kept as it came', async () => {
    const text = 'function setUid(req, cb) { cb(new Error("not this code")); }';
    const name = await bucket({ pre: [text] });
    await store.call('putObject', name, 'k', { name: 'bob' }, {});
    expect(await store.first('getObject', name, 'k', {})).toMatchObject({ value: { uid: 7 } });
    const found = await store.first('getBucket', {}, name);
    expect([found.pre, found.post]).toEqual([JSON.stringify([text]), '[]']);
  });

  test('hooks run in order, and the first that fails decides; its name goes to the client', async () => {
    const name = await bucket({ pre: ['setUid', 'refuse'] });
    const failed = await store.call('putObject', name, 'k', { bad: true }, {}).catch((e: unknown) => e);
    expect(toWire(failed)).toMatchObject({
      name: 'EmailError',
      message: 'email is required',
      context: { bucket: name, hook: 'refuse' },
    });
    await expect(store.call('getObject', name, 'k', {})).rejects.toMatchObject({
      name: 'ObjectNotFoundError',
    });
  });

  test.each([
    ['pre', { pre: ['ask'] }],
    ['post', { post: ['ask'] }],
  ])('what else a %s hook cannot connect to is no matter of PostgreSQL’s', async (_, hooks) => {
    const name = await bucket(hooks);
    await expect(store.call('putObject', name, 'k', {}, {})).rejects.toMatchObject({
      code: 'HookFailedError',
      message: 'connect ECONNREFUSED 10.0.0.1:80',
    });
    await expect(store.call('getObject', name, 'k', {})).rejects.toMatchObject({
      name: 'ObjectNotFoundError',
    });
  });

  test('puts of a bucket with pre hooks alone share transactions; with a post hook each has its own', async () => {
    const alone = await bucket({ pre: ['setUid'] });
    const posted = await bucket({ post: ['audit'] });
    await messages.take();
    for (const name of [alone, posted]) {
      const puts = Array.from({ length: 100 }, (_, n) => store.call('putObject', name, `k${n}`, { n }, {}));
      await Promise.all(puts);
    }
    const changes = await messages.take();
    const transactions = (name: string) =>
      new Set(changes.filter((m) => m.body.bucket === name).map((m) => m.transaction)).size;
    expect(transactions(alone)).toBeLessThan(50);
    expect(transactions(posted)).toBe(100);
  });

  test('a pre hook may ask whether the object is there: then its puts have a transaction', async () => {
    const name = await bucket({ pre: ['stamp'] });
    await store.call('putObject', name, 'k', { n: 1 }, {});
    expect(await store.first('getObject', name, 'k', {})).toMatchObject({ value: { n: 1, created: true } });
    await store.call('putObject', name, 'k', { n: 2 }, {});
    expect((await store.first('getObject', name, 'k', {})).value).toEqual({ n: 2 });
  });

  test('a pre hook may change the key; the check is of the object at the new one', async () => {
    const name = await bucket({ pre: ['rename'] });
    await store.call('putObject', name, 'k', { n: 1 }, { etag: null });
    await expect(store.call('putObject', name, 'k', { n: 2 }, { etag: null })).rejects.toMatchObject({
      name: 'EtagConflictError',
      context: { key: 'k.renamed' },
    });
  });

  test('a pre hook must leave an object', async () => {
    const name = await bucket({ pre: ['empty'] });
    await expect(store.call('putObject', name, 'k', {}, {})).rejects.toMatchObject({
      name: 'InvocationError',
    });
  });

  test('a post hook sees what was written, in its transaction', async () => {
    const name = await bucket({ pre: ['setUid'], post: ['audit'] });
    calls.length = 0;
    const headers = { who: 'me' };
    const { etag } = await store.first('putObject', name, 'seen', { name: 'x' }, { headers });
    const { _id: id } = await store.first('getObject', name, 'seen', {});
    await store.call('putObject', name, 'seen', { name: 'x' }, {});
    await store.call('delObject', name, 'seen', { etag });
    const value = { name: 'x', uid: 7, upper: 'X' };
    expect(calls).toEqual([
      { bucket: name, key: 'seen', value, id, etag, headers, update: false, schema: index },
      { bucket: name, key: 'seen', value, id, etag, headers: {}, update: true, schema: index },
      {
        bucket: name,
        key: 'seen',
        value: undefined,
        id,
        etag: null,
        headers: {},
        update: false,
        schema: index,
      },
    ]);
    expect(await audited('seen')).toEqual([{ id: String(id) }, { id: String(id) }, { id: String(id) }]);
  });

  test('an error of a post hook undoes the write, its own writes, and the change', async () => {
    const name = await bucket({ post: ['failAfter'] });
    const failed = await store.call('putObject', name, 'k', { n: 1 }, {}).catch((e: unknown) => e);
    expect(toWire(failed)).toMatchObject({ name: 'PostError', context: { why: 'test', hook: 'failAfter' } });
    await expect(store.call('getObject', name, 'k', {})).rejects.toMatchObject({
      name: 'ObjectNotFoundError',
    });
    expect(await audited('lost')).toEqual([]);
    expect((await messages.take()).filter((m) => m.body.bucket === name)).toEqual([]);
  });

  test('the errors of a write are the same with hooks', async () => {
    const name = await bucket({ post: ['audit'] });
    const { etag } = await store.first('putObject', name, 'one', { name: 'same' }, { etag: null });
    await expect(store.call('putObject', name, 'two', { name: 'same' }, {})).rejects.toMatchObject({
      name: 'UniqueAttributeError',
      context: { attribute: 'name', value: 'same', key: 'two' },
    });
    await expect(store.call('putObject', name, 'one', {}, { etag: null })).rejects.toMatchObject({
      name: 'EtagConflictError',
      context: { expected: 'null', actual: etag },
    });
    await expect(store.call('delObject', name, 'one', { etag: 'FFFFFFFF' })).rejects.toMatchObject({
      name: 'EtagConflictError',
    });
    await expect(store.call('delObject', name, 'none', {})).rejects.toMatchObject({
      name: 'ObjectNotFoundError',
    });
    expect(await audited('two')).toEqual([]);
  });

  test('concurrent puts of one object all take effect, one after the other', async () => {
    const name = await bucket({ pre: ['setUid'], post: ['audit'] });
    const puts = Array.from({ length: 20 }, (_, n) => store.call('putObject', name, 'busy', { n }, {}));
    await Promise.all(puts);
    expect(await audited('busy')).toHaveLength(20);
  });

  test('hooks of a batch run for its puts and deletes, request by request', async () => {
    const name = await bucket({ pre: ['setUid'], post: ['audit'] });
    const plain = await bucket({});
    calls.length = 0;
    const { etags } = await store.first(
      'batch',
      [
        { bucket: name, key: 'a', value: { name: 'a' }, options: { headers: { own: 1 } } },
        { bucket: plain, key: 'p', value: { name: 'p' } },
        { bucket: name, key: 'b', value: { name: 'b' } },
        { bucket: name, operation: 'update', filter: '(uid=7)', fields: { uid: 8 } },
        { bucket: name, operation: 'delete', key: 'a' },
      ],
      { headers: { all: 1 } },
    );
    expect(calls.map(({ key, value, headers }) => [key, value, headers])).toEqual([
      ['a', { name: 'a', uid: 7, upper: 'A' }, { own: 1 }],
      ['b', { name: 'b', uid: 7, upper: 'B' }, { all: 1 }],
      ['a', undefined, { all: 1 }],
    ]);
    expect(etags.map((e: { etag?: string }) => typeof e.etag)).toEqual([
      'string',
      'string',
      'string',
      'string',
      'undefined',
    ]);
    expect(await store.first('getObject', name, 'b', {})).toMatchObject({ value: { uid: 8 } });
  });

  test('an error of a hook undoes the whole batch', async () => {
    const name = await bucket({ pre: ['refuse'] });
    const requests = [
      { bucket: name, key: 'good', value: {} },
      { bucket: name, key: 'bad', value: { bad: true } },
    ];
    await expect(store.call('batch', requests, {})).rejects.toMatchObject({ name: 'EmailError' });
    await expect(store.call('getObject', name, 'good', {})).rejects.toMatchObject({
      name: 'ObjectNotFoundError',
    });
  });

  test('hooks that a bucket gets count from the next write on, also on a server that knew it without', async () => {
    const name = await bucket({});
    const other = await openTestStore(postgres.url, { hooks: new Map(Object.entries(named)) });
    try {
      await other.call('putObject', name, 'k', { name: 'k' }, {});
      await store.call('updateBucket', name, { index, pre: ['setUid'], options: { version: 2 } }, {});
      await other.call('putObject', name, 'k', { name: 'k' }, {});
      expect(await other.first('getObject', name, 'k', {})).toMatchObject({ value: { uid: 7 } });
      await store.call('updateBucket', name, { index, post: ['failAfter'], options: { version: 3 } }, {});
      await expect(other.call('delObject', name, 'k', {})).rejects.toMatchObject({ name: 'PostError' });
      await store.call('updateBucket', name, { index, options: { version: 4 } }, {});
      await other.call('batch', [{ bucket: name, operation: 'delete', key: 'k' }], {});
    } finally {
      await other.store.close();
    }
  });

  test('a server that cannot run a hook refuses writes, names the hook, and reads', async () => {
    const name = await bucket({ pre: ['setUid'] });
    await store.call('putObject', name, 'k', { name: 'k' }, {});
    const without = await openTestStore(postgres.url);
    try {
      const refused = { name: 'UnknownHookError', context: { bucket: name, hook: 'setUid' } };
      await expect(without.call('putObject', name, 'k', {}, {})).rejects.toMatchObject(refused);
      await expect(without.call('delObject', name, 'k', {})).rejects.toMatchObject(refused);
      const requests = [{ bucket: name, key: 'k', value: {} }];
      await expect(without.call('batch', requests, {})).rejects.toMatchObject(refused);
      expect(await without.first('getObject', name, 'k', {})).toMatchObject({ value: { uid: 7 } });
      expect(keysOf(await without.call('findObjects', name, '(uid=7)', {}))).toEqual(['k']);
    } finally {
      await without.store.close();
    }
  });

  test('code that is not registered is refused', async () => {
    for (const hooks of [{ pre: ['function other(req, cb) { cb(); }'] }, { post: ['unknown'] }]) {
      await expect(bucket(hooks)).rejects.toMatchObject({
        name: 'NotFunctionError',
        message: expect.stringMatching(/^trigger not function must be \[Function\]: .*CONGER_HOOKS/),
      });
    }
  });
});

describe('code from clients that are trusted', () => {
  const failing = (module: string) => `function (req, cb) {
    try { require('${module}'); } catch (e) { return cb(e); }
    var err = new Error('Required "${module}"');
    err.name = 'RequireError';
    cb(err);
  }`;

  test('runs, and may require what Moray permits', async () => {
    for (const module of ['microtime', 'crc']) {
      for (const kind of ['pre', 'post']) {
        const name = await bucket({ [kind]: [failing(module)] }, trusting);
        const failed = await trusting.call('putObject', name, 'k', {}, {}).catch((e: unknown) => e);
        expect(toWire(failed)).toMatchObject({ name: 'RequireError', message: `Required "${module}"` });
      }
    }
  });

  test('may require nothing else', async () => {
    for (const kind of ['pre', 'post']) {
      const name = await bucket({ [kind]: [failing('net')] }, trusting);
      await expect(trusting.call('putObject', name, 'k', {}, {})).rejects.toMatchObject({
        name: 'InvalidRequireError',
        message: '"net" is not a permitted module',
      });
    }
  });

  test('changes the value', async () => {
    const source = "function (req, cb) { if (req.value.pre) req.value.pre = 'pre_overwrite'; cb(); }";
    const name = await bucket({ pre: [source], post: ['function (req, cb) { cb(); }'] }, trusting);
    await trusting.call('putObject', name, 'k', { pre: 'hi' }, {});
    expect((await trusting.first('getObject', name, 'k', {})).value).toEqual({ pre: 'pre_overwrite' });
  });

  test('queries PostgreSQL in the transaction, as with Moray', async () => {
    const source = `function (req, cb) {
      var seen = 0;
      var q = req.pg.query('INSERT INTO audit SELECT $1, n FROM generate_series(1, 2) n RETURNING id', [req.key]);
      q.once('error', cb);
      q.on('row', function (r) { seen += Number(r.id); });
      q.once('end', function () { cb(seen === 3 ? null : new Error('rows: ' + seen)); });
    }`;
    const name = await bucket({ post: [source] }, trusting);
    await trusting.call('putObject', name, 'emitted', {}, {});
    expect(await audited('emitted')).toHaveLength(2);
    const broken = "function (req, cb) { req.pg.query('SELECT 1/0').once('error', cb); }";
    const failing = await bucket({ pre: [broken] }, trusting);
    await expect(trusting.call('putObject', failing, 'k', {}, {})).rejects.toMatchObject({
      message: 'division by zero',
    });
  });

  test('is cut off where it loops, at once and after a query', async () => {
    const loops = [
      'function endless(req, cb) { for (;;); }',
      'function endless(req, cb) { Promise.resolve().then(function () { for (;;); }); }',
      "function endless(req, cb) { req.pg.query('SELECT 1').once('end', function () { for (;;); }); }",
    ];
    for (const loop of loops) {
      const name = await bucket({ pre: [loop] }, trusting);
      await expect(trusting.call('putObject', name, 'k', {}, {})).rejects.toMatchObject({
        name: 'HookTimeoutError',
      });
      await trusting.call('ping', { deep: true });
    }
  });

  test('is refused where it is no function', async () => {
    const refused = (hooks: object, message: string) =>
      expect(bucket(hooks, trusting)).rejects.toMatchObject({
        name: 'NotFunctionError',
        message: expect.stringContaining(message),
      });
    await refused({ pre: ['hello'] }, 'trigger not function must be [Function]');
    await refused({ pre: ['function ('] }, 'trigger not function must be [Function]');
    await refused({ pre: ['"hello"'] }, 'pre must be [Function]');
    await refused({ post: ['"hello"'] }, 'post must be [Function]');
    await refused({ post: [5] }, 'post must be [Function]');
  });
});
