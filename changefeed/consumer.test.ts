import { beforeEach, expect, test } from 'vitest';
import type { BatchOp } from '../kvstore/types.ts';
import { CongerError } from '../runtime/errors.ts';
import { silentLogger } from '../runtime/log.ts';
import { currentTrace } from '../runtime/trace.ts';
import { readCheckpoint } from './checkpoint.ts';
import { type ConsumerOptions, ensureConsumerBuckets, startConsumer } from './consumer.ts';
import { formatPosition, parsePosition } from './position.ts';
import { TestKv } from './testing/kv.ts';
import { TestLog, type TestReader } from './testing/log.ts';
import type { Change } from './types.ts';

let log: TestLog;
let kv: TestKv;
beforeEach(async () => {
  log = new TestLog(1);
  kv = new TestKv();
  await ensureConsumerBuckets(kv);
});

/** The effect of the tests: appends each change's number to a list, by read and etag-conditional write. */
async function list(changes: readonly Change[]): Promise<BatchOp[]> {
  const found = await kv.tryGet<string[]>('results', 'list');
  const value = [...(found?.value ?? []), ...changes.map((c) => c.key)];
  return [{ operation: 'put', bucket: 'results', key: 'list', value, etag: found?._etag ?? null }];
}

async function results(): Promise<string[]> {
  return (await kv.tryGet<string[]>('results', 'list'))?.value ?? [];
}

async function member(name: string, options: Partial<ConsumerOptions> = {}): Promise<TestReader> {
  const reader = log.reader();
  await startConsumer({
    name: 'lister',
    member: name,
    reader,
    kv,
    log: silentLogger(),
    buckets: ['things'],
    handle: list,
    retryMs: 1,
    ...options,
  });
  return reader;
}

function fill(count: number, bucket = 'things'): string[] {
  const keys = Array.from({ length: count }, (_, i) => `${bucket}${log.batch(0, 0).records.length + i}`);
  for (const key of keys) log.append(log.make({ bucket, key }));
  return keys;
}

test('another member goes on where the first one died, with nothing lost or repeated', async () => {
  const keys = fill(10);
  const a = await member('a');
  await a.assign(0);
  await a.offer(0, 4);
  const b = await member('b');
  expect(await b.assign(0)).toMatchObject({ offset: '4' });
  await b.offer(0);
  expect(await results()).toEqual(keys);
});

test('a member that does not know it lost the partition writes nothing', async () => {
  const keys = fill(10);
  const a = await member('a');
  await a.assign(0);
  await a.offer(0, 2);
  const b = await member('b');
  await b.assign(0);
  await b.offer(0, 3);
  await expect(a.offer(0)).rejects.toThrow(/partition lost/);
  expect(await results()).toEqual(keys.slice(0, 5));
  await a.revoke(0);
  await b.offer(0);
  expect(await results()).toEqual(keys);
});

test('taken over between handle and commit: the effect does not happen', async () => {
  const keys = fill(4);
  const a = await member('a');
  const b = await member('b');
  await a.assign(0);
  kv.before = async () => {
    kv.before = undefined;
    await b.assign(0);
  };
  await expect(a.offer(0)).rejects.toThrow(/partition lost/);
  expect(await results()).toEqual([]);
  await b.offer(0);
  expect(await results()).toEqual(keys);
});

test('two that both believe to own the partition never stall it', async () => {
  const keys = fill(20);
  const members = [await member('a'), await member('b')] as const;
  for (const m of members) await m.assign(0);
  for (let i = 0; i < 200 && (await results()).length < keys.length; i++) {
    await members[i % 2]?.offer(0, 1).catch(() => undefined);
  }
  expect(await results()).toEqual(keys);
});

test('repeated and reordered stamps are dropped', async () => {
  const records = ['a', 'b', 'c'].map((key) => log.make({ key }));
  const [a, b, c] = records as [never, never, never];
  log.append(a, b, a, b, c, b);
  const m = await member('m');
  await m.assign(0);
  for (let i = 0; i < 6; i++) await m.offer(0, 1);
  expect(await results()).toEqual(['a', 'b', 'c']);
});

test('an effect that meets a conflict is computed anew; the checkpoint stays ours', async () => {
  const keys = fill(3);
  let tries = 0;
  const m = await member('m', {
    handle: async (changes) => {
      const ops = await list(changes);
      if (++tries === 1) await kv.put('results', 'list', ['other']);
      return ops;
    },
  });
  await m.assign(0);
  await m.offer(0);
  expect(tries).toBe(2);
  expect(await results()).toEqual(['other', ...keys]);
});

test('an error that says nothing about the change is given back, and nothing is skipped', async () => {
  const keys = fill(2);
  let tries = 0;
  let broken = true;
  const m = await member('m', {
    handle: async (changes) => {
      tries++;
      if (!broken) return list(changes);
      throw new CongerError('NoDatabasePeersError', 'no primary');
    },
  });
  await m.assign(0);
  for (let i = 1; i <= 10; i++) {
    await expect(m.offer(0)).rejects.toMatchObject({ code: 'NoDatabasePeersError' });
    expect(tries).toBe(i);
  }
  broken = false;
  await m.offer(0);
  expect(await results()).toEqual(keys);
});

test('a commit whose answer was lost is not applied again', async () => {
  const keys = fill(6);
  const m = await member('m');
  await m.assign(0);
  kv.after = () => {
    kv.after = undefined;
    throw new CongerError('UnknownOutcomeError', 'the connection broke');
  };
  await m.offer(0, 3);
  await m.offer(0);
  expect(await results()).toEqual(keys);
});

test.each([
  ['cannot be reached', new CongerError('NoDatabasePeersError', 'no primary')],
  ['cannot be read', new Error('no primary')],
])(
  'a commit whose answer was lost while the checkpoint %s: nothing is handled again',
  async (_what, error) => {
    const keys = fill(3);
    const handled: string[] = [];
    const m = await member('m', {
      handle: async (changes) => {
        handled.push(...changes.map(({ key }) => key));
        return list(changes);
      },
    });
    await m.assign(0);
    const read = kv.tryGet.bind(kv);
    kv.after = () => {
      kv.after = undefined;
      kv.tryGet = async () => {
        throw error;
      };
      throw new CongerError('UnknownOutcomeError', 'the connection broke');
    };
    for (let i = 0; i < 3; i++) await expect(m.offer(0)).rejects.toThrow('no primary');
    kv.tryGet = read;
    await m.offer(0);
    expect(handled).toEqual(keys);
    expect(await results()).toEqual(keys);
  },
);

test('a commit that was refused leaves the partition where it is', async () => {
  const keys = fill(2);
  const m = await member('m');
  await m.assign(0);
  const before = (await readCheckpoint(kv, 'lister', 0))?.owner;
  kv.before = async () => {
    kv.before = undefined;
    throw new CongerError('OverloadedError', 'too many');
  };
  await expect(m.offer(0)).rejects.toThrow('too many');
  await m.offer(0);
  expect((await readCheckpoint(kv, 'lister', 0))?.owner).toBe(before);
  expect(await results()).toEqual(keys);
});

test('a commit whose answer was lost, and another member after it: nothing twice', async () => {
  const keys = fill(6);
  const [a, b] = [await member('a'), await member('b')];
  await a.assign(0);
  kv.after = () => {
    kv.after = undefined;
    throw new CongerError('UnknownOutcomeError', 'the connection broke');
  };
  const read = kv.tryGet.bind(kv);
  // The first member does not come to look: it dies here.
  kv.tryGet = async (bucket, key) => {
    if (bucket === 'conger_checkpoints' && kv.after === undefined) throw new Error('dead');
    return read(bucket, key);
  };
  await expect(a.offer(0, 3)).rejects.toThrow('dead');
  kv.tryGet = read;
  await b.assign(0);
  await b.offer(0);
  expect(await results()).toEqual(keys);
});

test('the bootstrap runs once, before any change, also when its first owner died in it', async () => {
  const keys = fill(2);
  const seen: string[] = [];
  const bootstrap = (name: string, fails: boolean) => async () => {
    seen.push(name);
    if (fails) throw new Error('died');
    return [{ operation: 'put', bucket: 'results', key: 'list', value: ['boot'] } as const];
  };
  const a = await member('a', { bootstrap: bootstrap('a', true) });
  await expect(a.assign(0)).rejects.toThrow('died');
  const b = await member('b', { bootstrap: bootstrap('b', false) });
  expect(await b.assign(0)).toBe('start');
  await b.offer(0);
  const c = await member('c', { bootstrap: bootstrap('c', false) });
  await c.assign(0);
  expect(seen).toEqual(['a', 'b']);
  expect(await results()).toEqual(['boot', ...keys]);
});

test('what the log drops before the first record was taken is derived from the state', async () => {
  const state: string[] = [];
  const bootstrap = async () => [
    { operation: 'put', bucket: 'results', key: 'list', value: [...state] } as const,
  ];
  const a = await member('a', { bootstrap });
  await a.assign(0);
  await a.revoke(0);
  state.push(...fill(5));
  log.drop(0);
  const b = await member('b', { bootstrap });
  await b.assign(0);
  expect(await results()).toEqual(state);
});

test('a bootstrap in pieces reads again what was overtaken, and writes nothing once the partition is lost', async () => {
  const counts = async (): Promise<readonly BatchOp[]> => {
    const found = await kv.tryGet<string[]>('results', 'list');
    const value = [...(found?.value ?? []), 'piece'];
    return [{ operation: 'put', bucket: 'results', key: 'list', value, etag: found?._etag ?? null }];
  };
  const b = await member('b', { bootstrap: async () => undefined });
  let tries = 0;
  const a = await member('a', {
    bootstrap: async (_context, apply) => {
      await apply(async () => {
        const ops = await counts();
        if (++tries === 1) await kv.put('results', 'list', ['meanwhile']);
        return ops;
      });
      await apply(async () => {
        const ops = await counts();
        await b.assign(0);
        return ops;
      });
      return undefined;
    },
  });
  await expect(a.assign(0)).rejects.toThrow(/partition lost/);
  expect(tries).toBe(2);
  expect(await results()).toEqual(['meanwhile', 'piece']);
});

test('a new epoch derives everything anew, once, and then its changes are applied', async () => {
  let bootstraps = 0;
  const options: Partial<ConsumerOptions> = {
    bootstrap: async () => {
      bootstraps++;
      return [];
    },
  };
  const keys = fill(2);
  const a = await member('a', options);
  await a.assign(0);
  await a.offer(0);
  expect(bootstraps).toBe(1);
  log.open(2);
  await a.offer(0);
  expect(bootstraps).toBe(2);
  const b = await member('b', options);
  await b.assign(0);
  log.append(log.make({ key: 'new', epoch: 2 }));
  await b.offer(0);
  expect(bootstraps).toBe(2);
  expect(await results()).toEqual([...keys, 'new']);
});

test('where records are gone unread everything is derived anew, before what is left', async () => {
  const order: string[] = [];
  let broken = false;
  const m = await member('m', {
    bootstrap: async () => {
      if (broken) throw new Error('not now');
      order.push('derived');
      return [];
    },
    handle: async (changes) => {
      order.push(...changes.map(({ key }) => key));
      return [];
    },
  });
  await m.assign(0);
  log.append(log.make({ key: 'a' }));
  await m.offer(0);
  log.append(log.make({ key: 'b' }));
  broken = true;
  await expect(m.gap(0)).rejects.toThrow('not now');
  broken = false;
  await m.gap(0);
  await m.offer(0);
  expect(order).toEqual(['derived', 'a', 'derived', 'b']);
});

test('records of other buckets move the checkpoint only now and then, and are never handled', async () => {
  const m = await member('m', { idleRecords: 50 });
  await m.assign(0);
  const before = kv.batches;
  for (let i = 0; i < 12; i++) {
    fill(10, 'others');
    await m.offer(0);
  }
  // The first, so that there is a place, and two more.
  expect(kv.batches - before).toBe(3);
  const [key] = fill(1);
  await m.offer(0);
  expect(await results()).toEqual([key]);
  expect(await readCheckpoint(kv, 'lister', 0)).toMatchObject({
    offset: '121',
    position: log.batch(0, 0).cursor.position,
  });
});

test('a large batch is committed in parts; a failure in the middle repeats only what was not committed', async () => {
  const keys = fill(25);
  const sizes: number[] = [];
  const m = await member('m', {
    maxChanges: 10,
    handle: async (changes) => {
      sizes.push(changes.length);
      if (sizes.length === 2) throw new CongerError('OverloadedError', 'once');
      return list(changes);
    },
  });
  await m.assign(0);
  await expect(m.offer(0)).rejects.toThrow('once');
  expect(await readCheckpoint(kv, 'lister', 0)).toMatchObject({ offset: '' });
  await m.offer(0);
  expect(sizes).toEqual([10, 10, 10, 5]);
  expect(await results()).toEqual(keys);
});

test('a change that cannot be read stops the partition rather than being skipped', async () => {
  fill(1);
  const record = log.make({ key: 'x' });
  log.append({ ...record, body: Buffer.from('{"v":99}') });
  const m = await member('m');
  await m.assign(0);
  await m.offer(0, 1);
  await expect(m.offer(0)).rejects.toThrow(/version 99/);
  expect((await results()).length).toBe(1);
});

test('the effect runs as part of the request that caused the change', async () => {
  log.append(log.make({ key: 'a', requestId: 'request-1' }));
  let seen: string | undefined;
  const m = await member('m', {
    handle: async () => {
      seen = currentTrace()?.requestId;
      return [];
    },
  });
  await m.assign(0);
  await m.offer(0);
  expect(seen).toBe('request-1');
});

/** A transaction of changes of these keys. */
function commit(...keys: string[]): void {
  const made = keys.map((key) => log.make({ key }));
  const { lsn } = parsePosition(made[0]?.position ?? '');
  const records = made.map((one, index) => ({
    ...one,
    position: formatPosition({ epoch: 1, lsn, index }),
    index,
    count: keys.length,
  }));
  log.append(...records);
}

test('the changes of a transaction are handled together, and no checkpoint is within it', async () => {
  const handled: string[][] = [];
  const places: (string | undefined)[] = [];
  const handle = async (changes: readonly Change[]) => {
    places.push((await readCheckpoint(kv, 'lister', 0))?.position);
    handled.push(changes.map(({ key }) => key));
    return list(changes);
  };
  const m = await member('m', { handle, maxChanges: 3 });
  await m.assign(0);
  commit('a');
  commit('b', 'c', 'd', 'e', 'f');
  commit('g', 'h');
  commit('i', 'j');
  await m.offer(0);
  expect(handled).toEqual([
    ['a', 'b', 'c', 'd', 'e', 'f'],
    ['g', 'h', 'i', 'j'],
  ]);
  expect(places).toEqual(['', log.batch(0, 0, 6).cursor.position]);
});

test('what fails is tried by transactions before it is by changes', async () => {
  const handled: string[] = [];
  const handle = async (changes: readonly Change[]) => {
    handled.push(changes.map(({ key }) => key).join(''));
    if (changes.some(({ key }) => key === 'd')) throw new Error('not this one');
    return list(changes);
  };
  const m = await member('m', { handle, maxTries: 1 });
  await m.assign(0);
  commit('a', 'b', 'c');
  commit('d');
  commit('e', 'f');
  await m.offer(0);
  expect(handled).toEqual(['abcdef', 'abc', 'def', 'd', 'ef']);
  expect(await results()).toEqual(['a', 'b', 'c', 'e', 'f']);
});
