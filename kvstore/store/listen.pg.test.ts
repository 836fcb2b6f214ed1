import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { openTestStore, rpcCall, type TestStore } from './testing.ts';

let postgres: TestPostgres;
let store: TestStore;
let other: TestStore;
let admin: pg.Client;

/** For what comes in its own time. */
const patience = { timeout: 30_000 };

beforeAll(async () => {
  postgres = await startPostgres();
  store = await openTestStore(postgres.url);
  other = await openTestStore(postgres.url);
  admin = new pg.Client(postgres.url);
  await admin.connect();
});

afterEach(async () => {
  await vi.waitFor(async () => expect(await connections()).toBe(0), patience);
});

afterAll(async () => {
  await Promise.all([store?.store.close(), other?.store.close()]);
  await admin?.end();
  await postgres?.stop();
});

/** Connections that listen. */
async function connections(): Promise<number> {
  const { rows } = await admin.query(
    `SELECT count(*)::int AS n FROM pg_stat_activity WHERE application_name = 'conger-kvstore listen'`,
  );
  return rows[0].n;
}

interface Listening {
  readonly id: string;
  readonly heard: { channel: string; payload: string }[];
  /** How the call ended: undefined, well; else its error. */
  readonly ended: Promise<unknown>;
  /** The client reads what is sent from now on only after this. */
  hold(until: Promise<void>): void;
  abort(): void;
}

/** Makes a listen call, and waits until it hears. */
async function listen(channel: string, on: TestStore = store): Promise<Listening> {
  let held = Promise.resolve();
  const id = crypto.randomUUID();
  const heard: Listening['heard'] = [];
  const gone = new AbortController();
  const send = async (values: readonly unknown[]) => {
    heard.push(...(values as Listening['heard']));
    await held;
  };
  const call = on.store.rpcs.listen?.(rpcCall([channel, { req_id: id }], send, gone.signal));
  if (call === undefined) throw new Error('there is no call listen');
  const ended = call.then(
    () => undefined,
    (error: unknown) => error,
  );
  const hold = (until: Promise<void>) => {
    held = until;
  };
  // Nothing says when it hears.
  await vi.waitFor(async () => {
    await admin.query('SELECT pg_notify($1, $2)', [channel, 'ready?']);
    expect(heard.length).toBeGreaterThan(0);
  }, patience);
  await admin.query('SELECT pg_notify($1, $2)', [channel, 'ready']);
  await vi.waitFor(() => expect(heard.at(-1)?.payload).toBe('ready'), patience);
  heard.length = 0;
  return { id, heard, ended, hold, abort: () => gone.abort() };
}

async function unlisten(...all: Listening[]): Promise<void> {
  for (const { id, ended } of all) {
    await store.call('unlisten', id, {});
    expect(await ended).toBeUndefined();
  }
}

describe('hearing', () => {
  test.each(['plain', 'Upper "quoted" -channel', 'ü'.repeat(31)])('in order: %s', async (channel) => {
    const listening = await listen(channel);
    const payloads = Array.from({ length: 1000 }, (_, i) => `{"data":${i}}`);
    await Promise.all(payloads.slice(0, 1).map((payload) => store.call('notify', channel, payload, {})));
    await admin.query('SELECT pg_notify($1, p) FROM unnest($2::text[]) p', [channel, payloads.slice(1)]);
    await vi.waitFor(() => expect(listening.heard).toHaveLength(1000), patience);
    expect(listening.heard).toEqual(payloads.map((payload) => ({ channel, payload })));
    await unlisten(listening);
  });

  test('many listeners share a connection, and hear their own channel only', async () => {
    const [a1, a2, b] = [await listen('a'), await listen('a'), await listen('b')];
    for (const l of [a1, a2, b]) l.heard.length = 0;
    expect(await connections()).toBe(1);
    await store.call('notify', 'a', 'for a', {});
    await store.call('notify', 'b', 'for b', {});
    await vi.waitFor(() => expect(b.heard).toHaveLength(1), patience);
    const heard = [{ channel: 'a', payload: 'for a' }];
    expect(a1.heard).toEqual(heard);
    expect(a2.heard).toEqual(heard);
    await unlisten(a1);
    await store.call('notify', 'a', 'again', {});
    await vi.waitFor(() => expect(a2.heard).toHaveLength(2), patience);
    expect(a1.heard).toEqual(heard);
    await unlisten(a2, b);
  });

  test('what was heard is sent before the call ends', async () => {
    const [listening, slow] = [await listen('slow'), await listen('slow')];
    listening.heard.length = 0;
    let release: () => void = () => {};
    slow.hold(
      new Promise((resolve) => {
        release = resolve;
      }),
    );
    for (const payload of ['1', '2', '3']) await store.call('notify', 'slow', payload, {});
    await vi.waitFor(() => expect(listening.heard).toHaveLength(3), patience);
    await store.call('unlisten', slow.id, {});
    release();
    expect(await slow.ended).toBeUndefined();
    expect(slow.heard.map((h) => h.payload)).toEqual(['1', '2', '3']);
    await unlisten(listening);
  });
});

describe('ending', () => {
  test('unlisten of what is not there is no error, of any id', async () => {
    await store.call('unlisten', crypto.randomUUID(), {});
    await store.call('unlisten', 'nosuch', {});
    const listening = await listen('twice');
    await unlisten(listening, listening);
  });

  test('unlisten reaches a listener on another server', async () => {
    const listening = await listen('far', other);
    await store.call('unlisten', listening.id, {});
    expect(await listening.ended).toBeUndefined();
  });

  test('a client that is gone listens no more', async () => {
    const [stays, goes] = [await listen('gone'), await listen('gone')];
    goes.abort();
    await goes.ended;
    await unlisten(stays);
  });

  test('a lost connection ends every listener with an error, and the next listens anew', async () => {
    const all = [await listen('lost'), await listen('lost too')];
    await admin.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'conger-kvstore listen'`,
    );
    for (const { ended } of all) expect(await ended).toMatchObject({ code: 'NoDatabasePeersError' });
    await unlisten(await listen('lost'));
  });

  test('a client that does not read is cut off', async () => {
    const [listening, stuck] = [await listen('stuck'), await listen('stuck')];
    let release: () => void = () => {};
    stuck.hold(
      new Promise((resolve) => {
        release = resolve;
      }),
    );
    await admin.query(`SELECT pg_notify('stuck', n::text) FROM generate_series(1, 5000) n`);
    await vi.waitFor(() => expect(listening.heard.length).toBeGreaterThanOrEqual(5000), patience);
    release();
    expect(await stuck.ended).toMatchObject({ code: 'OverloadedError' });
    await unlisten(listening);
  });

  test('a server that ends', async () => {
    const ending = await openTestStore(postgres.url);
    const listening = await listen('ending', ending);
    ending.store.endListeners();
    expect(await listening.ended).toMatchObject({ code: 'OverloadedError' });
    await expect(ending.call('listen', 'ending', {})).rejects.toMatchObject({ code: 'OverloadedError' });
    await ending.store.close();
  });
});

describe('notifying', () => {
  test('as Moray’s client does it, where sql is not allowed', async () => {
    const listening = await listen('by sql');
    expect(await store.call('sql', 'select pg_notify($1, $2)', ['by sql', 'x'], {})).toEqual([
      { pg_notify: '' },
    ]);
    await vi.waitFor(() => expect(listening.heard).toHaveLength(1), patience);
    await expect(store.call('sql', 'select pg_notify($1, $2)', ['by sql'], {})).rejects.toMatchObject({
      code: 'OperationNotAllowedError',
    });
    await unlisten(listening);
  });

  test.each([
    ['listen', 'x'.repeat(64)],
    ['listen', 'ü'.repeat(32)],
    ['listen', 'a\0b'],
    ['notify', 'x'.repeat(64), 'payload'],
    ['notify', 'channel', 'x'.repeat(8000)],
    ['notify', 'channel', 'a\0b'],
    ['notify', 'channel', ''],
  ])('%s %.10s: refused', async (method, ...args) => {
    await expect(store.call(method, ...args, {})).rejects.toMatchObject({ code: 'InvocationError' });
  });

  test('a payload of 7,999 bytes passes', async () => {
    const listening = await listen('large');
    await store.call('notify', 'large', 'x'.repeat(7999), {});
    await vi.waitFor(() => expect(listening.heard).toHaveLength(1), patience);
    await unlisten(listening);
  });
});

test('PostgreSQL that is away', async () => {
  const own = await startPostgres();
  const lone = await openTestStore(own.url);
  await own.stop();
  await expect(lone.call('listen', 'x', {})).rejects.toMatchObject({ code: 'NoDatabasePeersError' });
  await lone.store.close();
});
