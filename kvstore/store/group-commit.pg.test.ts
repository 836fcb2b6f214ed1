import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { isCongerError } from '../../runtime/errors.ts';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { openTestStore, type TestStore } from './testing.ts';
import { Messages } from './testing-messages.ts';

let postgres: TestPostgres;
let stores: [TestStore, TestStore];
let messages: Messages;

beforeAll(async () => {
  postgres = await startPostgres({ fsync: 'off' });
  stores = [await openTestStore(postgres.url), await openTestStore(postgres.url)];
  messages = await Messages.open(postgres.url);
  const index = { u: { type: 'string', unique: true }, n: { type: 'number' }, range: { type: 'numrange' } };
  await stores[0].call('createBucket', 'b', { index }, {});
});

afterAll(async () => {
  await messages?.close();
  await Promise.all((stores ?? []).map((s) => s.store.close()));
  await postgres?.stop();
});

function settledNames(tries: readonly PromiseSettledResult<unknown>[]): string[] {
  return tries.map((t) =>
    t.status === 'fulfilled' ? 'ok' : isCongerError(t.reason) ? t.reason.name : String(t.reason),
  );
}

test('no increment is lost between two servers, and every one is in the feed, in order', async () => {
  await messages.take();
  const increments = 40;
  const writers = 8;
  const keys = ['c1', 'c2'];
  let conflicts = 0;

  const increment = async (store: TestStore, key: string) => {
    for (;;) {
      const found = await store.first('getObject', 'b', key, {}).catch((error: unknown) => {
        if (!isCongerError(error, 'ObjectNotFoundError')) throw error;
        return undefined;
      });
      const value = { n: (found?.value.n ?? 0) + 1 };
      try {
        await store.call('putObject', 'b', key, value, { etag: found?._etag ?? null });
        return;
      } catch (error) {
        if (!isCongerError(error, 'EtagConflictError')) throw error;
        conflicts++;
      }
    }
  };
  await Promise.all(
    Array.from({ length: writers }, async (_, w) => {
      for (let i = 0; i < increments; i++) await increment(stores[w % 2 ? 0 : 1], keys[(w >> 1) % 2] ?? 'c1');
    }),
  );
  expect(conflicts).toBeGreaterThan(0);

  const emitted = await messages.take();
  for (const key of keys) {
    const of = emitted.filter((m) => m.body.key === key);
    const expected = Array.from({ length: (increments * writers) / 2 }, (_, i) => ({ n: i + 1 }));
    expect(of.map((m) => m.body.value)).toEqual(expected);
    expect(of.map((m) => m.body.previous)).toEqual([null, ...expected.slice(0, -1)]);
  }
});

test('of many that insert one key where there must be none, one does', async () => {
  for (let round = 0; round < 10; round++) {
    const tries = await Promise.allSettled(
      Array.from({ length: 12 }, (_, i) =>
        stores[i % 2 ? 0 : 1].call('putObject', 'b', `only${round}`, { by: i }, { etag: null }),
      ),
    );
    const names = settledNames(tries);
    expect(names.filter((n) => n === 'ok')).toHaveLength(1);
    expect(names.filter((n) => n === 'EtagConflictError')).toHaveLength(11);
  }
});

test('puts and deletes of one key without an etag all succeed, each seeing the one before it', async () => {
  await messages.take();
  const keys = ['p1', 'p2', 'p3'];
  const results = await Promise.allSettled(
    Array.from({ length: 300 }, (_, i) => {
      const store = stores[i % 2 ? 0 : 1];
      const key = keys[i % 3] ?? '';
      return i % 5 === 0
        ? store.call('delObject', 'b', key, {})
        : store.call('putObject', 'b', key, { i }, {});
    }),
  );
  const names = settledNames(results);
  expect(new Set(names)).toEqual(new Set(['ok', 'ObjectNotFoundError']));
  const emitted = await messages.take();
  expect(emitted).toHaveLength(names.filter((n) => n === 'ok').length);
  for (const key of keys) {
    let last: object | null = null;
    for (const { body } of emitted.filter((m) => m.body.key === key)) {
      expect(body.previous).toEqual(last);
      last = body.value;
    }
    const now = await stores[0].first('getObject', 'b', key, {}).catch(() => undefined);
    expect(now?.value ?? null).toEqual(last);
  }
});

test('writes of one key through one server take effect in their order', async () => {
  await Promise.all(
    Array.from({ length: 50 }, (_, i) => stores[0].call('putObject', 'b', 'ordered', { i }, {})),
  );
  expect((await stores[0].first('getObject', 'b', 'ordered', {})).value).toEqual({ i: 49 });
});

describe('in one group', () => {
  test('each write has its own error, and its neighbours succeed', async () => {
    await stores[0].call('putObject', 'b', 'old', { u: 'in use' }, {});
    for (let i = 0; i < 20; i += 3) await stores[0].call('putObject', 'b', `g${i}`, { n: 0 }, {});
    await messages.take();
    const bad: Record<number, [object, string, object?]> = {
      3: [{ u: 'in use' }, 'UniqueAttributeError'],
      4: [{ u: 'in use' }, 'UniqueAttributeError'],
      6: [{ range: '[9,1]' }, 'InvalidIndexTypeError'],
      7: [{ range: '[9,1]' }, 'InvalidIndexTypeError'],
      9: [{ n: 1 }, 'EtagConflictError', { etag: 'DEADBEEF' }],
      10: [{ n: 1 }, 'EtagConflictError', { etag: 'DEADBEEF' }],
    };
    const tries = await Promise.allSettled(
      Array.from({ length: 20 }, (_, i) => {
        const [value, , options] = bad[i] ?? [{ n: i }];
        return stores[0].call('putObject', 'b', `g${i}`, value, options ?? {});
      }),
    );
    expect(settledNames(tries)).toEqual(Array.from({ length: 20 }, (_, i) => bad[i]?.[1] ?? 'ok'));
    const emitted = await messages.take();
    const written = Array.from({ length: 20 }, (_, i) => i).filter((i) => !bad[i]);
    expect(emitted.map((m) => m.body.key).sort()).toEqual(written.map((i) => `g${i}`).sort());
  });

  test('of those that want one unique value, one gets it', async () => {
    const tries = await Promise.allSettled(
      Array.from({ length: 30 }, (_, i) =>
        stores[i % 2 ? 0 : 1].call('putObject', 'b', `want${i}`, { u: 'prize' }, {}),
      ),
    );
    const names = settledNames(tries);
    expect(names.filter((n) => n === 'ok')).toHaveLength(1);
    expect(names.filter((n) => n === 'UniqueAttributeError')).toHaveLength(29);
    expect(await stores[0].call('findObjects', 'b', '(u=prize)', {})).toHaveLength(1);
  });

  test('writes share transactions', async () => {
    await messages.take();
    const writes = 200;
    await Promise.all(
      Array.from({ length: writes }, (_, i) => stores[0].call('putObject', 'b', `s${i}`, { n: i }, {})),
    );
    const emitted = await messages.take();
    expect(emitted).toHaveLength(writes);
    expect(new Set(emitted.map((m) => m.transaction)).size).toBeLessThan(writes / 4);
  });
});

test('more than may wait are turned away with a hint, and the others are written', async () => {
  const tries = await Promise.allSettled(
    Array.from({ length: 5000 }, (_, i) => stores[0].call('putObject', 'b', `o${i}`, { n: -1 }, {})),
  );
  const names = settledNames(tries);
  const written = names.filter((n) => n === 'ok').length;
  expect(new Set(names)).toEqual(new Set(['ok', 'OverloadedError']));
  const refused = tries.find((t) => t.status === 'rejected');
  expect(refused?.reason.context).toMatchObject({ retryAfterMs: expect.any(Number) });
  expect(await stores[0].call('findObjects', 'b', '(n=-1)', { limit: 1 })).toMatchObject([
    { _count: written },
  ]);
  await stores[0].call('putObject', 'b', 'after', {}, {});
});

test('a value of half a megabyte, many times over', async () => {
  const pad = 'é"\\'.repeat(130_000);
  await Promise.all(
    Array.from({ length: 6 }, (_, i) => stores[0].call('putObject', 'b', `big${i}`, { pad }, {})),
  );
  expect((await stores[1].first('getObject', 'b', 'big5', {})).value.pad).toBe(pad);
});
