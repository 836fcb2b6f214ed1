import { afterEach, beforeEach, expect, test } from 'vitest';
import type { BatchOp } from '../kvstore/types.ts';
import { CongerError } from '../runtime/errors.ts';
import { armFailpoints } from '../runtime/failpoints.ts';
import { silentLogger } from '../runtime/log.ts';
import { metrics } from '../runtime/metrics.ts';
import { readCheckpoint } from './checkpoint.ts';
import { type Consumer, type ConsumerOptions, ensureConsumerBuckets, startConsumer } from './consumer.ts';
import { isAway, listHeld, type PoisonRequest, poisonBucket, readHeld, requestBucket } from './poison.ts';
import { TestKv } from './testing/kv.ts';
import { TestLog, type TestReader } from './testing/log.ts';
import type { Change } from './types.ts';

let log: TestLog;
let kv: TestKv;
/** Values that the handler cannot take. */
let poison: Set<unknown>;
let calls: number;
const started: Consumer[] = [];

beforeEach(async () => {
  log = new TestLog(1);
  kv = new TestKv();
  poison = new Set();
  calls = 0;
  await ensureConsumerBuckets(kv);
});

afterEach(async () => {
  armFailpoints('');
  await Promise.all(started.splice(0).map((consumer) => consumer.stop()));
});

/** Appends each change's value to the list of its partition key. */
async function enter(changes: readonly Change[]): Promise<BatchOp[]> {
  calls++;
  const lists = new Map<string, unknown[]>();
  for (const { partitionKey, value } of changes) {
    if (poison.has(value)) throw new TypeError(`cannot read ${value}`);
    const list = lists.get(partitionKey) ?? (await of(partitionKey));
    lists.set(partitionKey, [...list, value]);
  }
  return [...lists].map(([key, value]) => ({ operation: 'put', bucket: 'results', key, value }));
}

async function of(partitionKey: string): Promise<unknown[]> {
  return (await kv.tryGet<unknown[]>('results', partitionKey))?.value ?? [];
}

async function member(name: string, options: Partial<ConsumerOptions> = {}): Promise<TestReader> {
  const reader = log.reader();
  const consumer = await startConsumer({
    name: 'lister',
    member: name,
    reader,
    kv,
    log: silentLogger(),
    buckets: ['things'],
    handle: enter,
    retryMs: 1,
    ...options,
  });
  started.push(consumer);
  await reader.assign(0);
  return reader;
}

function write(partitionKey: string, value: unknown): void {
  log.append(log.make({ key: `${partitionKey}/${value}`, partitionKey, value }));
}

/** What the command does: the request is an object, and its put is a change. */
async function ask(request: Pick<PoisonRequest, 'partition_key' | 'action'>, position = ''): Promise<void> {
  const value: PoisonRequest = { v: 1, consumer: 'lister', position, ...request };
  const key = `lister/${Math.random()}`;
  await kv.put(requestBucket, key, value);
  log.append(log.make({ bucket: requestBucket, key, partitionKey: request.partition_key, value }));
}

function stored(bucket: string): number {
  return [...kv.objects.values()].filter((object) => object.bucket === bucket).length;
}

async function metric(name: string): Promise<number | undefined> {
  const text = await metrics.metrics();
  const found = new RegExp(`^${name}\\{[^}]*consumer="lister"[^}]*\\} (\\S+)$`, 'm').exec(text)?.[1];
  return found === undefined ? undefined : Number(found);
}

test('a change that cannot be applied goes aside, with what follows it for its key; other keys go on', async () => {
  poison.add('a3');
  for (let n = 1; n <= 30; n++) for (const key of ['a', 'b', 'c']) write(key, `${key}${n}`);
  const m = await member('m', { maxChanges: 64 });
  await m.offer(0);
  expect(await of('a')).toEqual(['a1', 'a2']);
  for (const key of ['b', 'c'])
    expect(await of(key)).toEqual(Array.from({ length: 30 }, (_, i) => `${key}${i + 1}`));
  const [held, ...others] = await listHeld(kv);
  expect(others).toEqual([]);
  expect(held).toMatchObject({
    consumer: 'lister',
    partition: 0,
    partition_key: 'a',
    reason: 'cannot read a3',
    tries: 5,
    count: 28,
  });
  const waiting = await readHeld(kv, held?.held ?? '', 100);
  expect(waiting.map(({ key }) => key)).toEqual(Array.from({ length: 28 }, (_, i) => `a/a${i + 3}`));
  expect(waiting[0]?.position).toBe(held?.position);
  expect(await metric('conger_consumer_poisoned')).toBe(28);
  expect(await readCheckpoint(kv, 'lister', 0)).toMatchObject({ offset: '90' });
});

test('another member holds the key back as well, and a replay applies everything in order', async () => {
  poison.add('a1');
  write('a', 'a1');
  const first = await member('first');
  await first.offer(0);
  write('a', 'a2');
  write('b', 'b1');
  const second = await member('second', { maxChanges: 2 });
  await second.offer(0);
  expect(await of('a')).toEqual([]);
  expect(await of('b')).toEqual(['b1']);

  poison.clear();
  write('a', 'a3');
  await ask({ partition_key: 'a', action: 'replay' });
  write('a', 'a4');
  await second.offer(0);
  expect(await of('a')).toEqual(['a1', 'a2', 'a3', 'a4']);
  expect(stored(poisonBucket)).toBe(0);
  expect(stored(requestBucket)).toBe(0);
  await expect(first.offer(0)).rejects.toThrow(/partition lost/);
});

test('a replay that fails again keeps the key where it was', async () => {
  poison.add('a2');
  for (let n = 1; n <= 4; n++) write('a', `a${n}`);
  const m = await member('m');
  await m.offer(0);
  poison.clear();
  poison.add('a3');
  await ask({ partition_key: 'a', action: 'replay' });
  await m.offer(0);
  expect(await of('a')).toEqual(['a1', 'a2']);
  const [held] = await listHeld(kv, 'lister');
  expect(held).toMatchObject({ reason: 'cannot read a3', tries: 10, count: 2 });
  expect((await readHeld(kv, held?.held ?? '', 1))[0]?.position).toBe(held?.position);
  expect(stored(requestBucket)).toBe(0);
});

test('a change that is dropped is left out, and what waits behind it is applied', async () => {
  poison.add('a1');
  for (const value of ['a1', 'a2', 'a3']) write('a', value);
  const m = await member('m');
  await m.offer(0);
  const [held] = await listHeld(kv);
  await ask({ partition_key: 'a', action: 'drop' }, held?.position);
  await m.offer(0);
  expect(await of('a')).toEqual(['a2', 'a3']);
  expect(await listHeld(kv)).toEqual([]);

  write('a', 'a1');
  write('a', 'a4');
  await m.offer(0);
  await ask({ partition_key: 'a', action: 'drop-all' });
  write('a', 'a5');
  await m.offer(0);
  expect(await of('a')).toEqual(['a2', 'a3', 'a5']);
  expect(stored(poisonBucket)).toBe(0);
});

test('a replay that is cut off anywhere is done once', async () => {
  const values = ['a1', 'a2', 'a3', 'a4'];
  for (let cut = 1; cut <= 4; cut++) {
    log = new TestLog(1);
    kv = new TestKv();
    await ensureConsumerBuckets(kv);
    poison = new Set(['a1']);
    for (const value of values) write('a', value);
    const m = await member('m', { maxChanges: 2 });
    await m.offer(0);
    poison.clear();
    await ask({ partition_key: 'a', action: 'replay' });
    let batches = 0;
    kv.after = () => {
      if (++batches === cut) throw new CongerError('UnknownOutcomeError', 'the connection broke');
    };
    const read = kv.tryGet.bind(kv);
    kv.tryGet = async (bucket, key) => {
      // Nobody learns what became of the batch: the process is gone.
      if (batches >= cut && bucket === 'conger_checkpoints')
        throw new CongerError('NoDatabasePeersError', 'dead');
      return read(bucket, key);
    };
    await m.offer(0).catch(() => undefined);
    kv.after = undefined;
    kv.tryGet = read;
    const heir = await member('heir', { maxChanges: 2 });
    await heir.offer(0);
    expect(await of('a')).toEqual(values);
    expect(stored(poisonBucket)).toBe(0);
    expect(stored(requestBucket)).toBe(0);
  }
});

test('a change that went aside unknown to its consumer is still not overtaken', async () => {
  poison.add('a1');
  write('a', 'a1');
  const m = await member('m', { maxTries: 1 });
  armFailpoints('checkpoint.commit.after=error,checkpoint.settle.before=error');
  await expect(m.offer(0)).rejects.toThrow('checkpoint.settle.before');
  expect(stored(poisonBucket)).toBe(2);
  poison.clear();
  await m.offer(0);
  write('a', 'a2');
  await m.offer(0);
  expect(await of('a')).toEqual([]);
  expect(await listHeld(kv)).toMatchObject([{ partition_key: 'a', count: 2 }]);
});

test('a key that is held is known with the commit, whatever fails behind it', async () => {
  log.append({ ...log.make({ key: 'x', partitionKey: 'a' }), body: Buffer.from('{"v":1,') });
  const m = await member('m');
  armFailpoints('consumer.handle.after=error');
  await expect(m.offer(0)).rejects.toThrow('consumer.handle.after');
  write('a', 'a1');
  await m.offer(0);
  expect(await of('a')).toEqual([]);
  expect(await listHeld(kv)).toMatchObject([{ partition_key: 'a', count: 2 }]);
});

test('a change that is put aside too late is not put aside at all', async () => {
  poison.add('a1');
  write('a', 'a1');
  const m = await member('m');
  const batch = kv.batch.bind(kv);
  let late: readonly BatchOp[] = [];
  kv.batch = async (ops) => {
    kv.batch = batch;
    late = ops;
    throw new CongerError('UnknownOutcomeError', 'the connection broke');
  };
  await expect(m.offer(0)).rejects.toThrow('the connection broke');
  poison.clear();
  kv.before = async () => {
    kv.before = undefined;
    await batch(late).catch(() => undefined);
  };
  await m.offer(0);
  write('a', 'a2');
  await m.offer(0);
  expect(await of('a')).toEqual(['a1', 'a2']);
  expect(stored(poisonBucket)).toBe(0);
});

test('requests of other consumers, and of keys that nothing waits for, are passed over', async () => {
  write('a', 'a1');
  await ask({ partition_key: 'a', action: 'replay' });
  const other: PoisonRequest = {
    v: 1,
    consumer: 'other',
    partition_key: 'a',
    action: 'drop-all',
    position: '',
  };
  await kv.put(requestBucket, 'other/1', other);
  log.append(log.make({ bucket: requestBucket, key: 'other/1', partitionKey: 'a', value: other }));
  write('a', 'a2');
  poison.add('a2');
  const m = await member('m');
  await m.offer(0);
  expect(await of('a')).toEqual(['a1']);
  log.append(log.make({ bucket: requestBucket, key: 'other/1', partitionKey: 'a', value: other }));
  await m.offer(0);
  expect(await listHeld(kv)).toMatchObject([{ partition_key: 'a', count: 1 }]);
  expect(await kv.tryGet(requestBucket, 'other/1')).toBeDefined();
  expect(stored(requestBucket)).toBe(1);
});

test('a record that is no JSON goes aside at once; one of another bucket is passed over', async () => {
  write('a', 'a1');
  log.append({ ...log.make({ key: 'x', partitionKey: 'a' }), body: Buffer.from('{"v":1,') });
  const foreign = log.make({ key: 'x', partitionKey: 'b' });
  log.append({ ...foreign, body: Buffer.from('{"v":1,"bucket":"others","op":"merge"}') });
  log.append({
    ...log.make({ key: 'x', partitionKey: 'c' }),
    body: Buffer.from('{"v":1,"bucket":"things","op":"merge"}'),
  });
  for (const key of ['a', 'b', 'c']) write(key, `${key}2`);
  const m = await member('m');
  await m.offer(0);
  expect(await of('a')).toEqual(['a1']);
  expect(await of('b')).toEqual(['b2']);
  expect(await of('c')).toEqual([]);
  expect(await listHeld(kv)).toMatchObject([
    { partition_key: 'a', reason: expect.stringContaining('not JSON'), count: 2 },
    { partition_key: 'c', reason: expect.stringContaining('op'), count: 2 },
  ]);
  const [held] = await listHeld(kv);
  await ask({ partition_key: 'a', action: 'drop' }, held?.position);
  await m.offer(0);
  expect(await of('a')).toEqual(['a1', 'a2']);
});

test('what comes before a record of a newer version is applied, and nothing behind it', async () => {
  write('a', 'a1');
  const record = log.make({ key: 'x' });
  log.append({ ...record, body: Buffer.from('{"v":99}') });
  write('a', 'a2');
  const m = await member('m');
  for (let i = 0; i < 8; i++) await expect(m.offer(0)).rejects.toThrow(/version 99/);
  expect(await of('a')).toEqual(['a1']);
  expect(stored(poisonBucket)).toBe(0);
});

test('what fails for every key stops the partition after some, and goes on once it is mended', async () => {
  const keys = Array.from({ length: 10 }, (_, n) => `k${n}`);
  for (const key of keys) {
    write(key, 'x');
    write(key, 'y');
  }
  poison.add('x');
  poison.add('y');
  const m = await member('m', { maxHeldKeys: 4 });
  await expect(m.offer(0)).rejects.toThrow('cannot read x');
  expect(await listHeld(kv)).toHaveLength(4);
  poison.clear();
  await m.offer(0);
  for (const [n, key] of keys.entries()) expect(await of(key)).toEqual(n < 4 ? [] : ['x', 'y']);
});

test('a change too large to be kept is replayed as its object is then', async () => {
  const big = 'x'.repeat(2 * 1024 * 1024);
  poison.add(big);
  log.append(log.make({ key: 'big', partitionKey: 'a', value: big }));
  const m = await member('m');
  await m.offer(0);
  poison.clear();
  await kv.put('things', 'big', 'small');
  await ask({ partition_key: 'a', action: 'replay' });
  await m.offer(0);
  expect(await of('a')).toEqual(['small']);
});

test('lag in seconds grows while nothing is applied', async () => {
  const m = await member('m', {
    handle: async () => {
      if (calls++ < 2) throw new CongerError('NoDatabasePeersError', 'no primary');
      return [];
    },
  });
  log.append(log.make({ key: 'old', time: Date.now() - 60_000 }));
  for (let i = 0; i < 2; i++) {
    await expect(m.offer(0)).rejects.toThrow('no primary');
    expect(await metric('conger_consumer_lag_seconds')).toBeGreaterThanOrEqual(60);
  }
  await m.offer(0);
  expect(await metric('conger_consumer_lag_seconds')).toBe(0);
  await m.revoke(0);
  expect(await metric('conger_consumer_lag_seconds')).toBeUndefined();
});

test('lag in changes is what the log holds behind the checkpoint', async () => {
  const m = await member('m', { handle: async () => [] });
  for (let n = 0; n < 50; n++) write('a', n);
  await m.offer(0, 20);
  expect(await metric('conger_consumer_lag_changes')).toBe(30);
  await m.offer(0);
  expect(await metric('conger_consumer_lag_changes')).toBe(0);
});

test('errors that say that something is away', () => {
  const refused = Object.assign(new Error('refused'), { code: 'ECONNREFUSED', syscall: 'connect' });
  expect(isAway(new CongerError('OverloadedError', ''))).toBe(true);
  expect(isAway(new CongerError('UnknownOutcomeError', ''))).toBe(true);
  expect(isAway(new Error('fetch failed', { cause: refused }))).toBe(true);
  expect(isAway(new CongerError('InvocationError', ''))).toBe(false);
  expect(isAway(new TypeError('undefined is not a function'))).toBe(false);
  expect(isAway('away')).toBe(false);
});
