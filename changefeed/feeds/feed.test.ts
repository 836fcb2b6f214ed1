import { afterEach, describe, expect, test, vi } from 'vitest';
import { CongerError } from '../../runtime/errors.ts';
import { silentLogger } from '../../runtime/log.ts';
import { type Broadcast, type BroadcastOptions, startBroadcast } from '../broadcast.ts';
import { TestLog, type TestReader } from '../testing/log.ts';
import type { Change } from '../types.ts';
import { Cohorts } from './cohort.ts';
import { type Feed, type FeedMessage, type FeedOptions, openFeed } from './feed.ts';

// A loaded machine is slow, not wrong.
const eventually = <T>(check: () => T | Promise<T>) => vi.waitFor(check, { timeout: 40_000 });

type Message = FeedMessage<string, string>;

/** What readers of a broadcast go with while they are at rest. */
const cohorts = new WeakMap<Broadcast, Cohorts<string>>();
const selectThings = (change: Change) => (change.bucket === 'things' ? change.key : undefined);
function cohortsOf(broadcast: Broadcast): Cohorts<string> {
  const made = cohorts.get(broadcast) ?? new Cohorts<string>(selectThings);
  cohorts.set(broadcast, made);
  return made;
}

const stops: (() => Promise<void>)[] = [];
afterEach(async () => {
  vi.useRealTimers();
  for (const stop of stops.splice(0)) await stop();
});

async function start(log: TestLog, options: Partial<BroadcastOptions> = {}) {
  const reader = log.reader();
  const broadcast = await startBroadcast({ reader, log: silentLogger(), ...options });
  stops.push(() => broadcast.stop());
  return { broadcast, reader };
}

/** A reader that takes everything, and can be waited for. */
function open(broadcast: Broadcast, options: Partial<FeedOptions<string, string>> = {}) {
  const messages: Message[] = [];
  let waiting: { count: number; resolve: () => void } | undefined;
  const feed: Feed = openFeed<string, string>({
    broadcast,
    select: selectThings,
    ...(options.select === undefined ? { cohorts: cohortsOf(broadcast) } : {}),
    send: (message) => {
      messages.push(message);
      if (waiting !== undefined && messages.length >= waiting.count) waiting.resolve();
      return true;
    },
    ...options,
  });
  stops.push(async () => feed.close());
  const received = (count: number) =>
    new Promise<void>((resolve) => {
      if (messages.length >= count) resolve();
      else waiting = { count, resolve };
    });
  const events = () => messages.flatMap((m) => (m.type === 'event' ? [m.event] : []));
  const cursor = () => messages.at(-1)?.cursor ?? '';
  return { feed, messages, received, events, cursor };
}

async function push(
  log: TestLog,
  reader: TestReader,
  ...changes: Parameters<TestLog['make']>[0][]
): Promise<void> {
  log.append(...changes.map((change) => log.make(change)));
  await reader.goOn();
}

test('a snapshot, then exactly the changes that are not in it, wherever they come', async () => {
  const log = new TestLog(2);
  const { broadcast, reader } = await start(log);
  await push(log, reader, { key: 'before', xid: 5 });
  let found: (answer: { items: string[]; found: { snapshot: string } }) => void = () => undefined;
  const read = new Promise<{ items: string[]; found: { snapshot: string } }>((resolve) => {
    found = resolve;
  });
  const f = open(broadcast, { snapshot: () => read });
  // Commit order is not xid order: 12 was running when the snapshot was taken, 13 was in it.
  await push(log, reader, { key: 'in', xid: 11 }, { key: 'running', xid: 12 }, { key: 'in too', xid: 13 });
  found({ items: ['before', 'in', 'in too'], found: { snapshot: '12:14:12' } });
  await f.received(2);
  await push(log, reader, { key: 'late but seen', xid: 10 }, { key: 'after', xid: 14 });
  await f.received(3);
  expect(f.messages[0]).toMatchObject({ type: 'snapshot', items: ['before', 'in', 'in too'] });
  expect(f.events()).toEqual(['running', 'after']);
});

test('resuming inside the overlap of snapshot and stream repeats nothing that the snapshot had', async () => {
  const log = new TestLog(2);
  const { broadcast, reader } = await start(log);
  const f = open(broadcast, { snapshot: async () => ({ items: ['x'], found: { snapshot: '20:20:' } }) });
  await f.received(1);
  f.feed.close();
  await push(log, reader, { key: 'x', xid: 19 }, { key: 'y', xid: 20 });
  const again = open(broadcast, { since: f.cursor() });
  await again.received(2);
  expect(again.events()).toEqual(['y']);
});

test('any interleaving of changes, cuts and instances: each change once, in its partition’s order', async () => {
  const log = new TestLog(4);
  const instances = [await start(log), await start(log), await start(log)];
  let seed = 42;
  const random = (n: number) => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return Math.floor((seed / 0x7fffffff) * n) % n;
  };
  const total = 400;
  const got: string[] = [];
  let cursor: string | undefined;
  let made = 0;
  while (got.length < total) {
    const { broadcast } = instances[random(3)] ?? instances[0]!;
    const f = open(broadcast, { since: cursor && (await broadcast.resume(cursor)) });
    await f.received(1);
    for (let step = 0; step < 6; step++) {
      for (let i = random(20); i > 0 && made < total; i--) log.append(log.make({ key: `k${made++}` }));
      const lagging = instances[random(3)] ?? instances[0]!;
      await lagging.reader.goOn([random(4)], 1 + random(12));
    }
    await new Promise((resolve) => setImmediate(resolve));
    f.feed.close();
    got.push(...f.events());
    cursor = f.cursor();
  }
  expect(new Set(got).size).toBe(total);
  for (const records of log.records) {
    const order = records.map((r) => r.partitionKey);
    expect(got.filter((key) => order.includes(key))).toEqual(order);
  }
});

test('a cursor that is gone: PositionGone before anything is sent, or a snapshot where there is one', async () => {
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log, { maxChanges: 2 });
  const since = broadcast.cursor();
  for (let i = 0; i < 5; i++) await push(log, reader, { key: `k${i}` });
  const send = vi.fn(() => true);
  expect(() => open(broadcast, { since, send })).toThrow(expect.objectContaining({ code: 'PositionGone' }));
  expect(send).not.toHaveBeenCalled();
  const f = open(broadcast, {
    since,
    snapshot: async () => ({ items: ['all'], found: { snapshot: '1:1:' } }),
  });
  await f.received(1);
  expect(f.messages[0]).toMatchObject({ type: 'snapshot', items: ['all'] });
});

test('a reader that does not take its messages is cut off with a last word', async () => {
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log, { maxChanges: 10 });
  const messages: Message[] = [];
  const { feed } = open(broadcast, {
    send: (message) => {
      messages.push(message);
      return message.type === 'event' ? new Promise(() => undefined) : true;
    },
  });
  await push(log, reader, { key: 'first' });
  await eventually(() => expect(messages).toHaveLength(2));
  for (let i = 0; i < 10; i++) await push(log, reader, { key: `k${i}` });
  expect(messages).toHaveLength(2);
  await push(log, reader, { key: 'one too many' });
  expect(await feed.done).toMatchObject({ code: 'SlowReader' });
  expect(messages.at(-1)).toMatchObject({ type: 'end', error: { code: 'SlowReader' } });
  await push(log, reader, { key: 'x' });
  expect(messages).toHaveLength(3);
});

test('an end inside the snapshot gives no cursor: there is nothing to resume', async () => {
  const log = new TestLog(1);
  const { broadcast } = await start(log);
  const f = open(broadcast, {
    snapshot: async () => {
      throw new CongerError('NoDatabasePeersError', 'no PostgreSQL');
    },
  });
  expect(await f.feed.done).toMatchObject({ code: 'NoDatabasePeersError' });
  expect(f.messages).toEqual([{ type: 'end', error: expect.any(CongerError), cursor: undefined }]);
});

test('a change that comes at any moment of the reader’s turn is sent without another one to push it', async () => {
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log);
  const f = open(broadcast);
  await f.received(1);
  for (let depth = 0; depth < 30; depth++) {
    log.append(log.make({ key: `first${depth}` }));
    const first = reader.goOn();
    for (let i = 0; i < depth; i++) await undefined;
    log.append(log.make({ key: `second${depth}` }));
    await Promise.all([first, reader.goOn()]);
    await f.received(1 + 2 * (depth + 1));
  }
  expect(f.events()).toHaveLength(60);
});

test('bookmarks say how far it is whatever goes by, and that it lives, for as long as nothing else is sent', async () => {
  vi.useFakeTimers();
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log);
  const f = open(broadcast, { bookmarkMs: 1_000 });
  const bookmarks = () => f.messages.filter((m) => m.type === 'bookmark').length;
  await vi.advanceTimersByTimeAsync(100_000);
  expect(bookmarks()).toBe(100);
  for (let i = 0; i < 50; i++) {
    await push(log, reader, { key: `k${i}` });
    await vi.advanceTimersByTimeAsync(100);
  }
  expect(bookmarks()).toBe(100);
  await push(log, reader, { bucket: 'others', key: 'x' });
  await vi.advanceTimersByTimeAsync(2_000);
  expect(bookmarks()).toBeGreaterThan(100);
  expect(f.cursor()).toBe(broadcast.cursor());
});

/** A log that an instance has read the last two records of each partition of, and what it held before. */
async function behindTheRing(count: number) {
  const log = new TestLog(3);
  const first = await start(log);
  await push(log, first.reader, ...Array.from({ length: 20 }, (_, i) => ({ key: `early${i}` })));
  const since = first.broadcast.cursor();
  const keys = Array.from({ length: count }, (_, i) => `k${i}`);
  log.append(...keys.map((key) => log.make({ key })));
  const later = await start(log, { tail: 2 });
  later.reader.pageRecords = 7;
  return { log, since, keys, ...later };
}

test('a place before the ring is gone on from in the log, and then in the ring, once and in order', async () => {
  const { log, since, keys, broadcast, reader } = await behindTheRing(100);
  expect(() => broadcast.read(since, () => undefined)).toThrow(/no longer held/);
  const f = open(broadcast, { since: await broadcast.resume(since) });
  // Changes come while it catches up, and after it.
  for (let i = 0; i < 10; i++) {
    keys.push(`live${i}`);
    await push(log, reader, { key: `live${i}` });
  }
  await f.received(1 + keys.length);
  keys.push('last');
  await push(log, reader, { key: 'last' });
  await f.received(1 + keys.length);
  expect(reader.pages).toBeGreaterThan(10);
  expect(f.events().toSorted()).toEqual(keys.toSorted());
  for (const records of log.records) {
    const order = records.map((r) => r.partitionKey).filter((key) => keys.includes(key));
    expect(f.events().filter((key) => order.includes(key))).toEqual(order);
  }
});

test('each cursor that was told while a reader caught up is one to resume from', async () => {
  const { since, keys, broadcast } = await behindTheRing(60);
  const got: string[] = [];
  let cursor = since;
  while (got.length < keys.length) {
    let left = 7;
    const { feed } = open(broadcast, {
      since: await broadcast.resume(cursor),
      send: (message) => {
        if (message.type === 'end') return true;
        if (left === 0) return false;
        cursor = message.cursor;
        if (message.type === 'event') {
          got.push(message.event);
          left--;
        }
        return got.length < keys.length;
      },
    });
    await feed.done;
  }
  expect(got.toSorted()).toEqual(keys.toSorted());
});

describe.each(['where the reader came', 'where the read began'])('a snapshot from %s', (from) => {
  /** A reader whose snapshot is read, and whose first of three pages is taken, when the test says so. */
  async function inSnapshot(log: TestLog) {
    const { broadcast, reader } = await start(log, { maxChanges: 2 });
    await push(log, reader, { key: 'before', xid: 1 });
    const since = from === 'where the read began' ? { since: broadcast.cursor() } : {};
    const items = Array.from({ length: 600 }, (_, i) => `item${i}`);
    const messages: Message[] = [];
    let find: () => void = () => undefined;
    let take: () => void = () => undefined;
    const found = new Promise<void>((resolve) => {
      find = resolve;
    });
    const taken = new Promise<boolean>((resolve) => {
      take = () => resolve(true);
    });
    const { feed } = open(broadcast, {
      snapshot: async () => {
        await found;
        return { items, found: { snapshot: '20:20:' }, ...since };
      },
      send: (message) => {
        messages.push(message);
        return message.type === 'snapshot' && messages.length === 1 ? taken : true;
      },
    });
    const told = () => messages.flatMap((m) => (m.type === 'event' ? [m.event] : []));
    const page = () => eventually(() => expect(messages).toHaveLength(1));
    return { broadcast, reader, feed, messages, told, find, page, take };
  }

  const changes = (name: string, count: number, xid: number) =>
    Array.from({ length: count }, (_, i) => ({ key: `${name}${i}`, xid: xid + i }));
  const keysOf = (made: readonly { readonly key: string }[]) => made.map(({ key }) => key);

  test('may take longer to read and to send than the ring holds: the log has the rest, once', async () => {
    const log = new TestLog(1);
    const { broadcast, reader, messages, told, find, page, take } = await inSnapshot(log);
    const [seen, unseen, sending, later] = [
      changes('seen', 8, 12),
      changes('unseen', 8, 20),
      changes('sending', 8, 40),
      changes('later', 8, 60),
    ];
    await push(log, reader, ...seen, ...unseen);
    find();
    await page();
    await push(log, reader, ...sending);
    take();
    await eventually(() => expect(told()).toHaveLength(16));
    for (const change of later) await push(log, reader, change);
    await eventually(() => expect(told().length).toBeGreaterThanOrEqual(24));
    const expected = keysOf([...unseen, ...sending, ...later]);
    expect(told()).toEqual(expected);
    expect(messages.map(({ type }) => type)).not.toContain('end');
    const last = messages.find((message) => message.type === 'snapshot' && message.last);
    const again = open(broadcast, { since: await broadcast.resume(last?.cursor ?? '') });
    await again.received(1 + expected.length);
    expect(again.events()).toEqual(expected);
  });

  test('is of no use once the log has dropped what came behind it: PositionGone', async () => {
    const log = new TestLog(1);
    const { reader, feed, messages, told, find, page, take } = await inSnapshot(log);
    find();
    await page();
    await push(log, reader, ...changes('sending', 8, 40));
    log.drop(3);
    take();
    expect(await feed.done).toMatchObject({ code: 'PositionGone' });
    expect(told()).toEqual([]);
    expect(messages.filter(({ type }) => type === 'snapshot')).toHaveLength(3);
  });

  test('is followed by nothing of an epoch that began meanwhile: PositionGone', async () => {
    for (const when of ['read', 'sent']) {
      const log = new TestLog(1);
      const { reader, feed, told, find, page, take } = await inSnapshot(log);
      const begin = async () => {
        log.open(2);
        await push(log, reader, { key: 'new', xid: 50, epoch: 2 });
      };
      if (when === 'read') await begin();
      find();
      await page();
      if (when === 'sent') await begin();
      take();
      expect(await feed.done).toMatchObject({ code: 'PositionGone' });
      expect(told()).toEqual([]);
    }
  });

  test('ends with its reader, or with the process, while it is read', async () => {
    const log = new TestLog(1);
    const [left, ended] = [await inSnapshot(log), await inSnapshot(log)];
    left.feed.close();
    expect(await left.feed.done).toBeUndefined();
    await ended.broadcast.stop();
    expect(await ended.feed.done).toMatchObject({ code: 'ServiceUnavailable' });
    expect(ended.messages).toMatchObject([{ type: 'end', cursor: undefined }]);
  });
});

test('catching up leaves out what the snapshot had that the reader began with', async () => {
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log, { maxChanges: 2 });
  const f = open(broadcast, { snapshot: async () => ({ items: ['x'], found: { snapshot: '20:20:' } }) });
  await f.received(1);
  f.feed.close();
  await push(
    log,
    reader,
    { key: 'x', xid: 19 },
    { key: 'y', xid: 20 },
    { key: 'z', xid: 21 },
    { key: 'w', xid: 22 },
  );
  const again = open(broadcast, { since: await broadcast.resume(f.cursor()) });
  await again.received(4);
  expect(again.events()).toEqual(['y', 'z', 'w']);
});

test('a position is a place: what was committed after it, in every partition', async () => {
  const { log, broadcast } = await behindTheRing(30);
  const all = log.records.flat().sort((a, b) => (a.position < b.position ? -1 : 1));
  const at = 25;
  const f = open(broadcast, { since: await broadcast.resume(all[at]?.position ?? '') });
  const expected = all.slice(at + 1).map((record) => record.partitionKey);
  await f.received(1 + expected.length);
  expect(f.events().toSorted()).toEqual(expected.toSorted());
});

test('what the log has dropped is PositionGone, before anything is sent or in the middle', async () => {
  const { log, since, broadcast } = await behindTheRing(300);
  const catchUp = await broadcast.resume(since);
  const messages: Message[] = [];
  const { feed } = open(broadcast, {
    since: catchUp,
    send: (message) => {
      messages.push(message);
      if (messages.length === 5) log.drop(5);
      return true;
    },
  });
  expect(await feed.done).toMatchObject({ code: 'PositionGone' });
  expect(messages.length).toBeGreaterThan(5);
  expect(messages.length).toBeLessThan(50);
  const other = await start(log, { tail: 2 });
  await expect(other.broadcast.resume(since)).rejects.toMatchObject({ code: 'PositionGone' });
  await expect(broadcast.resume('nonsense')).rejects.toMatchObject({ code: 'BadRequest' });
});

test('a reader that catches up and comes to a new epoch, or to what cannot be read, is sent nothing after it', async () => {
  const { log, since, broadcast, reader } = await behindTheRing(30);
  const held = await broadcast.resume(since);
  log.open(2);
  log.append(...Array.from({ length: 30 }, (_, i) => log.make({ key: `new${i}`, epoch: 2 })));
  const f = open(broadcast, { since: held });
  await reader.goOn();
  expect(await f.feed.done).toMatchObject({ code: 'PositionGone' });
  expect(f.events().filter((key) => key.startsWith('new'))).toEqual([]);

  const other = await behindTheRing(30);
  const [record] = other.log.records[0]?.slice(-5) ?? [];
  other.log.records[0]?.splice(-5, 1, { ...record!, body: Buffer.from('{"v":99}') });
  const g = open(other.broadcast, { since: await other.broadcast.resume(other.since) });
  expect(await g.feed.done).toMatchObject({ code: 'PositionGone' });
});

test('readers that take nothing hold no turn at the log, and are cut off after a while', async () => {
  const { since, keys, broadcast } = await behindTheRing(30);
  const stuck = async (stuckMs: number) =>
    open(broadcast, {
      since: await broadcast.resume(since),
      stuckMs,
      send: (message) => (message.type === 'event' ? new Promise(() => undefined) : true),
    });
  // For longer than the test waits.
  for (let i = 0; i < 20; i++) await stuck(600_000);
  const well = open(broadcast, { since: await broadcast.resume(since) });
  await well.received(1 + keys.length);
  const { feed } = await stuck(100);
  expect(await feed.done).toMatchObject({ code: 'SlowReader' });
});

test('a reader that takes its time is sent each change of the log once, whatever of a page it gave back', async () => {
  const { since, keys, broadcast, reader } = await behindTheRing(30);
  const got: string[] = [];
  const catchUp = await broadcast.resume(since);
  const page = vi.spyOn(catchUp, 'page');
  const slow = open(broadcast, {
    since: catchUp,
    send: async (message) => {
      if (message.type !== 'event') return true;
      got.push(message.event);
      // Longer than a turn waits.
      if (got.length % 3 === 0) await new Promise((resolve) => setTimeout(resolve, 250));
      return true;
    },
  });
  await eventually(() => expect(got.length).toBeGreaterThanOrEqual(keys.length));
  expect(got.toSorted()).toEqual(keys.toSorted());
  expect(page.mock.calls.length).toBeGreaterThan(reader.pages);
  slow.feed.close();
});

test('readers of the log who stand at one place share its pages, and what they make of it', async () => {
  const { since, keys, broadcast, reader } = await behindTheRing(100);
  const one = open(broadcast, { since: await broadcast.resume(since) });
  await one.received(1 + keys.length);
  const pages = reader.pages;
  expect(pages).toBeGreaterThan(8);
  const others = await Promise.all(
    Array.from({ length: 20 }, async () => open(broadcast, { since: await broadcast.resume(since) })),
  );
  for (const each of others) await each.received(1 + keys.length);
  for (const each of others) expect(each.events().toSorted()).toEqual(keys.toSorted());
  expect(reader.pages).toBeLessThan(6 * pages);
});

test('readers who leave while they wait for a turn take none with them', async () => {
  const { since, keys, broadcast } = await behindTheRing(30);
  const turns = Array.from({ length: 8 }, () => broadcast.turns.take());
  for (let i = 0; i < 20; i++) {
    const { feed, received } = open(broadcast, { since: await broadcast.resume(since) });
    await received(1);
    feed.close();
    await feed.done;
  }
  for (const turn of turns) turn.over();
  const well = open(broadcast, { since: await broadcast.resume(since) });
  await well.received(1 + keys.length);
});

test('ends with a last message when the process ends, and says nothing to a reader that left', async () => {
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log);
  const [a, b] = [open(broadcast), open(broadcast)];
  await Promise.all([a.received(1), b.received(1)]);
  b.feed.close();
  expect(await b.feed.done).toBeUndefined();
  await broadcast.stop();
  expect(await a.feed.done).toMatchObject({ code: 'ServiceUnavailable' });
  await push(log, reader, { key: 'x' });
  expect(a.messages.map((m) => m.type)).toEqual(['bookmark', 'end']);
  expect(b.messages.map((m) => m.type)).toEqual(['bookmark']);
});

test('a fault in the selection ends that feed, and the last message has the cursor before the change', async () => {
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log);
  const f = open(broadcast, {
    select: ({ key }) => {
      if (key === 'bad') throw new TypeError('bug');
      return key;
    },
  });
  await f.received(1);
  await push(log, reader, { key: 'x' }, { key: 'bad' }, { key: 'y' });
  expect(await f.feed.done).toMatchObject({ code: 'InternalError' });
  const again = open(broadcast, { since: f.cursor() });
  await again.received(3);
  expect([...f.events(), ...again.events()]).toEqual(['x', 'bad', 'y']);
});

test('a reader that is told nothing while it catches up is told how far it is', async () => {
  const log = new TestLog(1);
  const { broadcast, reader } = await start(log, { maxChanges: 10 });
  const since = broadcast.cursor();
  await push(log, reader, ...Array.from({ length: 100 }, (_, i) => ({ bucket: 'others', key: `k${i}` })));
  vi.useFakeTimers();
  const { readFrom } = reader;
  reader.pageRecords = 10;
  reader.readFrom = async (...args) => {
    await new Promise((resolve) => setTimeout(resolve, 10_000));
    return readFrom.apply(reader, args);
  };
  const f = open(broadcast, { since: await broadcast.resume(since), bookmarkMs: 10_000 });
  await vi.advanceTimersByTimeAsync(60_000);
  expect(f.messages.length).toBeGreaterThanOrEqual(3);
  expect(f.messages.every((message) => message.type === 'bookmark')).toBe(true);
  const cursors = f.messages.map(({ cursor }) => cursor);
  expect(new Set(cursors).size).toBe(cursors.length);
});
