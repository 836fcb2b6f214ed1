import { afterEach, describe, expect, test, vi } from 'vitest';
import { silentLogger } from '../runtime/log.ts';
import { type Broadcast, type BroadcastOptions, startBroadcast, WaitTimeoutError } from './broadcast.ts';
import { decodeCursor, encodeCursor } from './feeds/cursor.ts';
import { positionAt, TestLog, type TestReader } from './testing/log.ts';

const running: Broadcast[] = [];
afterEach(async () => {
  await Promise.all(running.splice(0).map((b) => b.stop()));
});

async function start(
  log: TestLog,
  options: Partial<BroadcastOptions> = {},
): Promise<{ broadcast: Broadcast; reader: TestReader }> {
  const reader = log.reader();
  const broadcast = await startBroadcast({ reader, log: silentLogger(), ...options });
  running.push(broadcast);
  return { broadcast, reader };
}

const nothing = () => undefined;

/** Everything that a reader from `since` on gets now. */
function readAll(broadcast: Broadcast, since?: string): string[] {
  const { reader, close } = broadcast.read(since, nothing);
  const keys: string[] = [];
  for (let change = reader.next(); change !== undefined; change = reader.next()) keys.push(change.key);
  close();
  return keys;
}

test('subscribers get each change once, in order, however often the log repeats it', async () => {
  const log = new TestLog(2);
  const { broadcast, reader } = await start(log);
  const all: string[] = [];
  const some: string[] = [];
  broadcast.subscribe({ onChange: (c) => all.push(c.position) });
  const leave = broadcast.subscribe({ buckets: ['b', 'c'], onChange: (c) => some.push(c.bucket) });
  const records = ['a', 'b', 'c', 'd'].map((bucket) => log.make({ bucket, key: 'k' }));
  const [a, b, c, d] = records as [never, never, never, never];
  await reader.push([a, b, a, b, c, a, c]);
  leave();
  await reader.push([b, d]);
  expect(all).toEqual(records.map((r) => r.position));
  expect(some).toEqual(['b', 'c']);
});

test('one subscriber’s failure is not another’s', async () => {
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log);
  const seen: string[] = [];
  broadcast.subscribe({
    onChange: () => {
      throw new Error('mine');
    },
  });
  broadcast.subscribe({ onChange: (c) => seen.push(c.key) });
  await reader.push([log.make({ key: 'a' }), log.make({ key: 'b' })]);
  expect(seen).toEqual(['a', 'b']);
});

test('a cursor of one instance resumes on another, which read the partitions in another order', async () => {
  const log = new TestLog(3);
  const one = await start(log);
  const two = await start(log);
  for (let i = 0; i < 60; i++) log.append(log.make({ key: `k${i}` }));
  await one.reader.goOn([0], 7);
  await one.reader.goOn([1], 3);
  const first: string[] = [];
  const { reader } = one.broadcast.read(
    encodeCursor({ time: Date.now(), positions: ['', '', ''], snapshot: '' }),
    nothing,
  );
  for (let change = reader.next(); change !== undefined; change = reader.next()) first.push(change.key);
  // The other instance is ahead in one partition, behind in another, and has nothing of the third.
  await two.reader.goOn([2], 9);
  await two.reader.goOn([0], 2);
  const rest: string[] = [];
  const resumed = two.broadcast.join(await two.broadcast.resume(reader.cursor()));
  const drain = () => {
    for (let change = resumed.next(); change !== undefined; change = resumed.next()) rest.push(change.key);
  };
  drain();
  await two.reader.goOn();
  drain();
  const keys = [...first, ...rest];
  expect(new Set(keys).size).toBe(60);
  expect(keys.length).toBe(60);
  for (const records of log.records) {
    const order = records.map((r) => r.partitionKey);
    expect(keys.filter((key) => order.includes(key))).toEqual(order);
  }
});

test('resumes after a restart as far as the tail reaches, and says so where it does not', async () => {
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log);
  const cursors = [broadcast.cursor()];
  for (let i = 0; i < 10; i++) {
    log.append(log.make({ key: `k${i}` }));
    await reader.goOn();
    cursors.push(broadcast.cursor());
  }
  const again = await start(log, { tail: 4 });
  expect(readAll(again.broadcast, cursors[7])).toEqual(['k7', 'k8', 'k9']);
  expect(readAll(again.broadcast, cursors[10])).toEqual([]);
  expect(() => readAll(again.broadcast, cursors[5])).toThrow(/no longer held/);
  const whole = await start(log, { tail: 100 });
  expect(readAll(whole.broadcast, cursors[0])).toHaveLength(10);
});

test('where the log has dropped all there was, a place from before it may have is gone', async () => {
  const log = new TestLog(2);
  for (let i = 0; i < 10; i++) log.append(log.make({ key: `k${i}` }));
  log.drop(0);
  const { broadcast } = await start(log, { resumeMs: 1000 });
  const positions = log.records.map((records) => records.at(-1)?.position ?? '');
  const recent = encodeCursor({ time: Date.now(), positions, snapshot: '' });
  const old = encodeCursor({ time: Date.now() - 60_000, positions, snapshot: '' });
  expect(readAll(broadcast, recent)).toEqual([]);
  expect(() => readAll(broadcast, old)).toThrow(expect.objectContaining({ code: 'PositionGone' }));
});

test('what the log has dropped for its number is gone, however young it was', async () => {
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log);
  const cursors = [broadcast.cursor()];
  for (let i = 0; i < 6; i++) {
    log.append(log.make({ key: `k${i}` }));
    await reader.goOn();
    cursors.push(broadcast.cursor());
  }
  log.drop(2);
  const again = await start(log);
  expect(readAll(again.broadcast, cursors[5])).toEqual(['k5']);
  for (const cursor of cursors.slice(0, 4))
    await expect(again.broadcast.resume(cursor)).rejects.toMatchObject({ code: 'PositionGone' });
  // The log shows that it holds this, and the ring does not.
  expect((await again.broadcast.resume(cursors[4] ?? '')).done).toBe(false);
});

test('a position before all that the log ever had may be one of another log: the log is asked', async () => {
  const old = new TestLog(1);
  const before = old.make({ key: 'a' });
  const log = new TestLog(1);
  log.make({ key: 'a' });
  log.append(log.make({ key: 'b' }));
  const { broadcast } = await start(log);
  const cursor = encodeCursor({ time: Date.now(), positions: [before.position], snapshot: '' });
  expect(broadcast.reaches(cursor)).toBe(false);
  expect(broadcast.reaches(encodeCursor({ time: 0, positions: [''], snapshot: '' }))).toBe(true);
});

test('a log that does not answer at first where it begins is asked again', async () => {
  const log = new TestLog(1);
  const reader = log.reader();
  const { locate } = reader;
  let asked = 0;
  reader.locate = async (...place) => {
    if (asked++ === 0) throw new Error('away');
    return locate.apply(reader, place);
  };
  const broadcast = await startBroadcast({ reader, log: silentLogger() });
  running.push(broadcast);
  expect(broadcast.reaches(encodeCursor({ time: 0, positions: [''], snapshot: '' }))).toBe(true);
  expect(asked).toBeGreaterThan(1);
});

test('a tail with fewer changes than it should have, as some were repeated, is not the whole log', async () => {
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log);
  const since = broadcast.cursor();
  for (let i = 0; i < 10; i++) log.append(log.make({ key: `k${i}` }));
  await reader.goOn();
  const own = log.reader();
  const { readAll: whole } = own;
  own.readAll = (tail, ...told) => whole.call(own, tail - 2, ...told);
  const again = await startBroadcast({ reader: own, log: silentLogger(), tail: 5 });
  running.push(again);
  expect(() => readAll(again, since)).toThrow(/no longer held/);
});

describe('a log that begins a new epoch', () => {
  const gone = expect.objectContaining({ code: 'PositionGone' });

  test('refuses the cursors of the epoch before, also where it is empty but for that', async () => {
    const old = new TestLog(2);
    const one = await start(old);
    old.append(old.make({ key: 'a' }));
    await one.reader.goOn();
    const cursor = one.broadcast.cursor();
    const log = new TestLog(2);
    log.open(2);
    const { broadcast } = await start(log);
    expect(() => readAll(broadcast, cursor)).toThrow(gone);
    const never = encodeCursor({ time: Date.now(), positions: ['', ''], snapshot: '' });
    expect(() => readAll(broadcast, never)).toThrow(gone);
    const ahead = encodeCursor({ time: Date.now(), positions: [positionAt(9, 3), ''], snapshot: '' });
    expect(() => readAll(broadcast, ahead)).toThrow(gone);
    const place = broadcast.cursor();
    log.append(log.make({ key: 'b', epoch: 2 }));
    expect(readAll((await start(log)).broadcast, place)).toEqual(['b']);
  });

  test('ends the readers that come to it, before any change of it; who begins there misses nothing', async () => {
    const log = new TestLog(4);
    const { broadcast, reader } = await start(log);
    for (let i = 0; i < 8; i++) log.append(log.make({ key: `old${i}` }));
    const { reader: feed } = broadcast.read(undefined, nothing);
    log.open(2);
    log.append(log.make({ key: 'new', epoch: 2 }));
    const at = log.records.findIndex((records) => records.at(-1)?.partitionKey === 'new');
    await reader.goOn([at]);
    const told: string[] = [];
    const drain = () => {
      for (let change = feed.next(); change !== undefined; change = feed.next()) told.push(change.key);
    };
    expect(drain).toThrow(gone);
    expect(told).not.toContain('new');
    expect(() => broadcast.read(feed.cursor(), nothing)).toThrow(gone);
    // What the other partitions still hold of the old epoch is told to those who begin now.
    const { reader: next } = broadcast.read(undefined, nothing);
    await reader.goOn();
    const rest: string[] = [];
    for (let change = next.next(); change !== undefined; change = next.next())
      if (change.bucket === 'things') rest.push(change.key);
    const others = log.records.flatMap((records, partition) => (partition === at ? [] : records));
    expect(rest.sort()).toEqual(
      others
        .map((record) => record.partitionKey)
        .filter((key) => key.startsWith('old'))
        .sort(),
    );
  });
});

test.each([
  ['changes', { maxChanges: 5 }],
  ['bytes', { maxBytes: 1000 }],
])(
  'the ring is bounded in %s; a reader that it overtakes is told, and so is a cursor',
  async (_what, limits) => {
    const log = new TestLog(1);
    const { broadcast, reader } = await start(log, limits);
    const start0 = broadcast.cursor();
    const { reader: slow } = broadcast.read(undefined, nothing);
    for (let i = 0; i < 20; i++) log.append(log.make({ key: `k${i}` }));
    await reader.goOn();
    expect(slow.overtaken).toBe(true);
    expect(() => slow.next()).toThrow(expect.objectContaining({ code: 'SlowReader' }));
    expect(() => broadcast.read(start0, nothing)).toThrow(expect.objectContaining({ code: 'PositionGone' }));
    expect(() => broadcast.read(slow.cursor(), nothing)).toThrow(
      expect.objectContaining({ code: 'PositionGone' }),
    );
  },
);

test('lost changes overtake every reader, and no cursor from before them is resumed', async () => {
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log);
  await reader.push([log.make({ key: 'a' })]);
  const behind = broadcast.cursor();
  const { reader: feed } = broadcast.read(undefined, nothing);
  await reader.lose(0);
  expect(() => feed.next()).toThrow(expect.objectContaining({ code: 'SlowReader' }));
  log.make({ key: 'lost' });
  await reader.push([log.make({ key: 'b' }), log.make({ key: 'c' })]);
  expect(() => broadcast.read(behind, nothing)).toThrow(expect.objectContaining({ code: 'PositionGone' }));
  const { reader: later } = broadcast.read(undefined, nothing);
  await reader.push([log.make({ key: 'd' })]);
  expect(later.next()?.key).toBe('d');
});

test('a record that cannot be read overtakes its readers, and the rest goes on', async () => {
  const log = new TestLog(2);
  const { broadcast, reader } = await start(log);
  const { reader: feed } = broadcast.read(undefined, nothing);
  const before = broadcast.cursor();
  const [good, bad, next] = [log.make({ key: 'a' }), log.make({ key: 'a' }), log.make({ key: 'a' })];
  const seen: string[] = [];
  broadcast.subscribe({ onChange: (c) => seen.push(c.position) });
  await reader.push([good, { ...bad, body: Buffer.from('{"v":2,"new":"words"}') }, next]);
  expect(seen).toEqual([good.position, next.position]);
  expect(() => feed.next()).toThrow(expect.objectContaining({ code: 'SlowReader' }));
  expect(() => readAll(broadcast, before)).toThrow(expect.objectContaining({ code: 'PositionGone' }));
  expect(readAll(broadcast, broadcast.cursor())).toEqual([]);
});

test('cursors survive the wire, and what is none is refused', async () => {
  const place = {
    time: 1_700_000_000_123,
    positions: [positionAt(3), '', positionAt(2 ** 40)],
    snapshot: '7:9:8',
  };
  expect(decodeCursor(encodeCursor(place))).toEqual(place);
  const whole = encodeCursor(place);
  const wrong = ['', 'x', '!', whole.slice(0, 30), `${whole}AAAA`, `B${whole.slice(1)}`, 'A'.repeat(100_000)];
  for (const text of wrong)
    expect(() => decodeCursor(text)).toThrow(expect.objectContaining({ code: 'BadRequest' }));
  const { broadcast } = await start(new TestLog(2));
  expect(() => broadcast.read(whole, nothing)).toThrow(expect.objectContaining({ code: 'PositionGone' }));
});

test('a wait sees a change that comes while it checks', async () => {
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log);
  let state = 'old';
  let checks = 0;
  const answer = await broadcast.waitFor({ bucket: 'things', key: 'a', timeoutMs: 60_000 }, async () => {
    checks++;
    const read = state;
    if (checks === 1) {
      state = 'new';
      await reader.push([log.make({ key: 'a' })]);
    }
    return read === 'new' ? read : undefined;
  });
  expect(answer).toBe('new');
  expect(checks).toBe(2);
});

test('a change wakes only those who wait for its object, and each of them once', async () => {
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log);
  const done = new Set<string>();
  const check = vi.fn(async (key: string) => (done.has(key) ? key : undefined));
  const keys = Array.from({ length: 5_000 }, (_, i) => `k${i}`);
  const waits = keys.map((key) =>
    broadcast.waitFor({ bucket: 'things', key, timeoutMs: 60_000 }, () => check(key)),
  );
  expect(check).toHaveBeenCalledTimes(5_000);
  done.add('k7');
  await reader.push([log.make({ key: 'k7' }), log.make({ bucket: 'others', key: 'k8' })]);
  expect(await waits[7]).toBe('k7');
  expect(check).toHaveBeenCalledTimes(5_001);
  const rest = Promise.allSettled(waits);
  await broadcast.stop();
  const reasons = (await rest).filter((r) => r.status === 'rejected').map((r) => r.reason.code);
  expect(reasons).toEqual(new Array(4_999).fill('ServiceUnavailable'));
});

test.each([
  ['records are lost', (_log: TestLog, reader: TestReader) => reader.lose(0)],
  [
    'an epoch begins',
    (log: TestLog, reader: TestReader) => {
      log.open(2);
      return reader.goOn();
    },
  ],
  [
    'a change cannot be read',
    (log: TestLog, reader: TestReader) =>
      reader.push([{ ...log.make({ key: 'x' }), body: Buffer.from('{') }]),
  ],
])('where %s, waits look again and subscribers are told', async (_what, happen) => {
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log);
  await reader.push([log.make({ key: 'a' })]);
  const told: string[] = [];
  broadcast.subscribe({
    buckets: ['things'],
    onChange: ({ key }) => told.push(key),
    onGap: () => told.push('gap'),
  });
  let done = false;
  const waiting = broadcast.waitFor(
    { bucket: 'things', key: 'k', timeoutMs: 20_000 },
    async () => done || undefined,
  );
  done = true;
  await happen(log, reader);
  expect(await waiting).toBe(true);
  expect(told).toEqual(['gap']);
});

test('a wait ends by its time, by its signal, by its check’s failure', async () => {
  const { broadcast } = await start(new TestLog(1));
  const on = { bucket: 'things', key: 'a', timeoutMs: 60_000 };
  const never = async () => undefined;
  await expect(broadcast.waitFor({ ...on, timeoutMs: 5 }, never)).rejects.toBeInstanceOf(WaitTimeoutError);
  const abort = new AbortController();
  const wait = broadcast.waitFor({ ...on, signal: abort.signal }, never);
  abort.abort(new Error('client gone'));
  await expect(wait).rejects.toThrow('client gone');
  await expect(broadcast.waitFor({ ...on, signal: abort.signal }, never)).rejects.toThrow('client gone');
  const failing = async () => {
    throw new Error('no database');
  };
  await expect(broadcast.waitFor(on, failing)).rejects.toThrow('no database');
});
