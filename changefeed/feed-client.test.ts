import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, expect, test, vi } from 'vitest';
import type { BroadcastOptions } from './broadcast.ts';
import { type FeedEvent, type FollowOptions, followFeed } from './feed-client.ts';
import { httpFeed } from './feeds/http.ts';
import { TestKv } from './testing/kv.ts';
import { TestLog } from './testing/log.ts';
import { startInstance, type TestInstance } from './testing/server.ts';

// A loaded machine is slow, not wrong.
const eventually = <T>(check: () => T | Promise<T>) => vi.waitFor(check, { timeout: 40_000 });

const stops: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
});

async function instance(log: TestLog, kv = new TestKv(), options: Partial<BroadcastOptions> = {}) {
  const index = { name: { type: 'string' } } as const;
  const thing = { bucket: 'things', all: '(name=*)', index, present: (value: unknown) => value };
  const made = await startInstance(
    log,
    async (app, broadcast) => {
      await app.register(httpFeed, { broadcast, kv, resources: { thing }, bookmarkMs: 20 });
    },
    options,
  );
  stops.push(() => made.stop());
  return made;
}

function follow(instances: readonly TestInstance[], options: Partial<FollowOptions> = {}) {
  const events: FeedEvent[] = [];
  const troubles: unknown[] = [];
  const abort = new AbortController();
  const following = followFeed({
    urls: instances.map(({ url }) => url),
    resource: 'thing',
    onEvent: (event) => void events.push(event),
    onTrouble: (error) => troubles.push(error),
    signal: abort.signal,
    ...options,
  });
  following.done.catch(() => undefined);
  stops.push(async () => abort.abort());
  const keys = () => events.flatMap((event) => ('key' in event ? [`${event.type} ${event.key}`] : []));
  const begun = () => eventually(() => expect(following.cursor).toBeDefined());
  return { following, events, troubles, abort, keys, begun };
}

test('a follower whose instances end, one after the other, is told everything once', async () => {
  const log = new TestLog(2);
  let current = await instance(log);
  const fixed: { url: string }[] = [current];
  const urls = [current.url];
  const f = follow(fixed as TestInstance[], { urls });
  await f.begun();
  const expected: string[] = [];
  for (let round = 0; round < 5; round++) {
    const next = await instance(log);
    urls.splice(0, 1, next.url);
    for (let i = 0; i < 10; i++) {
      log.append(log.make({ key: `${round}-${i}` }));
      expected.push(`put ${round}-${i}`);
      if (i % 3 === 0) await current.reader.goOn();
    }
    await current.stop();
    await next.reader.goOn();
    current = next;
    await eventually(() => expect(f.keys()).toHaveLength(expected.length));
  }
  expect(f.keys().toSorted()).toEqual(expected.toSorted());
  expect(f.troubles.length).toBeGreaterThan(0);
  f.abort.abort();
  await f.following.done;
});

test('a position that is gone ends a follower, or brings a snapshot to one who wants it', async () => {
  const log = new TestLog(1);
  const kv = new TestKv();
  await kv.put('things', 'there', { name: 'x' });
  const one = await instance(log, kv, { maxChanges: 1 });
  const since = one.broadcast.cursor();
  for (let i = 0; i < 3; i++) log.append(log.make({ key: `k${i}` }));
  await one.reader.goOn();
  log.drop(1);
  const ends = follow([one], { since });
  await expect(ends.following.done).rejects.toMatchObject({ code: 'PositionGone' });
  const goesOn = follow([one], { since, snapshot: true });
  await eventually(() => expect(goesOn.events.length).toBeGreaterThan(2));
  expect(goesOn.events.slice(0, 3)).toMatchObject([
    { type: 'snapshot-begin' },
    { type: 'snapshot', key: 'there' },
    { type: 'snapshot-end', count: 1 },
  ]);
});

test('what trying again does not mend is thrown; what may mend is tried again', async () => {
  const one = await instance(new TestLog(1));
  await expect(follow([one], { resource: 'other' }).following.done).rejects.toMatchObject({
    code: 'ResourceNotFound',
  });
  await expect(follow([one], { filter: '(x=1)' }).following.done).rejects.toMatchObject({
    code: 'NotIndexedError',
  });
  await expect(follow([one], { since: 'nonsense' }).following.done).rejects.toMatchObject({
    code: 'BadRequest',
  });
  const dead = { url: 'http://127.0.0.1:1' } as TestInstance;
  const f = follow([dead, one, dead]);
  await f.begun();
  const down = follow([dead]);
  await eventually(() => expect(down.troubles.length).toBeGreaterThan(1));
  down.abort.abort();
  await down.following.done;
});

test('the cursor is behind what was taken, and a failure to take ends the follower', async () => {
  const log = new TestLog(1);
  const one = await instance(log);
  const seen: string[] = [];
  const f = follow([one], {
    onEvent: (event) => {
      if (event.type !== 'put') return;
      if (event.key === 'bad') throw new Error('no room');
      seen.push(event.key);
    },
  });
  await f.begun();
  log.append(log.make({ key: 'good' }), log.make({ key: 'bad' }), log.make({ key: 'later' }));
  await one.reader.goOn();
  await expect(f.following.done).rejects.toThrow('no room');
  expect(seen).toEqual(['good']);
  const rest = follow([one], { since: f.following.cursor });
  await eventually(() => expect(rest.keys()).toEqual(['put bad', 'put later']));
});

test('an instance that falls silent is left for another', async () => {
  const log = new TestLog(1);
  const [silent, well] = [await instance(log), await instance(log)];
  silent.app.server.removeAllListeners('request');
  const f = follow([silent, silent, silent, well], { silentMs: 1_000 });
  await f.begun();
  log.append(log.make({ key: 'x' }));
  await well.reader.goOn();
  await eventually(() => expect(f.keys()).toEqual(['put x']));
});

test('spaces ahead of a line, which say that an instance lives, are no trouble', async () => {
  const server = createServer((_, response) => {
    response.writeHead(200);
    response.write(' ', () => {
      const end = JSON.stringify({ type: 'snapshot-end', count: 0, cursor: 'c' });
      response.write(`  ${end}\n`);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  stops.push(async () => {
    server.closeAllConnections();
    server.close();
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const f = follow([{ url } as TestInstance], { snapshot: true });
  await f.begun();
  expect(f.events.map(({ type }) => type)).toEqual(['snapshot-begin', 'snapshot-end']);
  expect(f.troubles).toEqual([]);
});

test('a snapshot that is broken off begins anew: what was in its part is not taken for being there', async () => {
  const line = (key: string) =>
    `${JSON.stringify({ type: 'snapshot', resource: 'thing', key, value: {} })}\n`;
  let connections = 0;
  const server = createServer((_, response) => {
    connections++;
    response.writeHead(200);
    if (connections === 1) response.write(line('deleted since'), () => response.destroy());
    else
      response.write(`${line('there')}${JSON.stringify({ type: 'snapshot-end', count: 1, cursor: 'c' })}\n`);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  stops.push(async () => {
    server.closeAllConnections();
    server.close();
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const f = follow([{ url } as TestInstance], { snapshot: true });
  await f.begun();
  const there = new Set<string>();
  for (const event of f.events) {
    if (event.type === 'snapshot-begin') there.clear();
    if (event.type === 'snapshot') there.add(event.key);
  }
  expect([...there]).toEqual(['there']);
});
