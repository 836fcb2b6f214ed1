import { get, type IncomingMessage } from 'node:http';
import { createInterface } from 'node:readline';
import { afterEach, expect, test, vi } from 'vitest';
import { WebSocket } from 'ws';
import type { BroadcastOptions } from '../broadcast.ts';
import { TestKv } from '../testing/kv.ts';
import { TestLog } from '../testing/log.ts';
import { startInstance, type TestInstance } from '../testing/server.ts';
import { encodeCursor } from './cursor.ts';
import { type FeedLine, type HttpFeedOptions, httpFeed } from './http.ts';

// A loaded machine is slow, not wrong.
const eventually = <T>(check: () => T | Promise<T>) => vi.waitFor(check, { timeout: 40_000 });

const index = { name: { type: 'string' }, size: { type: 'number' } } as const;

const stops: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
});

async function instance(
  log: TestLog,
  kv = new TestKv(),
  options: Partial<BroadcastOptions> = {},
  feed: Partial<HttpFeedOptions> = {},
): Promise<TestInstance> {
  const present = (value: unknown) => ({ shown: (value as { name?: string }).name });
  const made = await startInstance(
    log,
    async (app, broadcast) => {
      await app.register(httpFeed, {
        broadcast,
        kv,
        resources: { thing: { bucket: 'things', all: '(name=*)', index, present } },
        bookmarkMs: 10,
        ...feed,
      });
    },
    options,
  );
  stops.push(() => made.stop());
  return made;
}

/** Asks for a feed and reads it line by line. */
async function listen({ url }: TestInstance, query: Record<string, string>) {
  const answer = await new Promise<IncomingMessage>((resolve, reject) => {
    get(`${url}/feed?${new URLSearchParams(query)}`, resolve).on('error', reject);
  });
  const leave = (): void => void answer.destroy();
  stops.push(async () => leave());
  expect(answer.headers['content-type']).toBe('application/x-ndjson');
  const lines = createInterface({ input: answer })[Symbol.asyncIterator]();
  const next = async (): Promise<FeedLine | undefined> => {
    const { value, done } = await lines.next();
    return done ? undefined : (JSON.parse(value) as FeedLine);
  };
  const until = async (type: string) => {
    for (;;) {
      const line = await next();
      if (line === undefined || line.type === type) return line;
    }
  };
  return { leave, next, until };
}

function cursorOf(line: FeedLine | undefined): string {
  return line !== undefined && 'cursor' in line ? (line.cursor ?? '') : '';
}

test('changes of the resource alone, presented, with a cursor that another instance resumes from', async () => {
  const log = new TestLog(2);
  const [one, two] = [await instance(log), await instance(log)];
  const feed = await listen(one, { resource: 'thing' });
  expect((await feed.next())?.type).toBe('bookmark');
  log.append(
    log.make({ key: 'a', value: { name: 'x', secret: 1 }, requestId: 'r1' }),
    log.make({ bucket: 'secrets', key: 's' }),
    log.make({ key: 'a', op: 'delete', previous: { name: 'x', secret: 1 } }),
  );
  await one.reader.goOn();
  const put = await feed.until('put');
  expect(put).toMatchObject({
    resource: 'thing',
    bucket: 'things',
    key: 'a',
    value: { shown: 'x' },
    requestId: 'r1',
  });
  expect(await feed.until('delete')).toMatchObject({
    key: 'a',
    value: null,
    etag: null,
    previous: { shown: 'x' },
  });
  feed.leave();

  const resumed = await listen(two, { resource: 'things', since: cursorOf(put) });
  await two.reader.goOn();
  await resumed.next();
  let line = await resumed.next();
  while (line?.type === 'bookmark') line = await resumed.next();
  expect(line).toMatchObject({ type: 'delete', key: 'a' });
  expect(JSON.stringify(line)).not.toContain('secret');
});

test('a snapshot, its end with a cursor, then the stream', async () => {
  const log = new TestLog(1);
  const kv = new TestKv();
  for (let i = 0; i < 3; i++) await kv.put('things', `k${i}`, { name: `n${i}`, secret: 1 });
  const one = await instance(log, kv);
  const feed = await listen(one, { resource: 'thing', snapshot: 'true' });
  for (let i = 0; i < 3; i++) {
    expect(await feed.next()).toMatchObject({ type: 'snapshot', key: `k${i}`, value: { shown: `n${i}` } });
  }
  expect(await feed.next()).toMatchObject({ type: 'snapshot-end', count: 3, cursor: expect.any(String) });
  log.append(log.make({ key: 'k9' }));
  await one.reader.goOn();
  expect(await feed.until('put')).toMatchObject({ key: 'k9' });
});

test('what cannot be served is answered with an error and its status', async () => {
  const log = new TestLog(1);
  const one = await instance(log, new TestKv(), { maxChanges: 1 });
  const gone = one.broadcast.cursor();
  for (let i = 0; i < 3; i++) log.append(log.make({ key: `k${i}` }));
  await one.reader.goOn();
  log.drop(1);
  const ask = async (query: string) => {
    const answer = await fetch(`${one.url}/feed?${query}`);
    return [answer.status, ((await answer.json()) as { code?: string }).code];
  };
  expect(await ask('resource=secrets')).toEqual([404, 'ResourceNotFound']);
  expect(await ask('resource=__proto__')).toEqual([404, 'ResourceNotFound']);
  expect(await ask('resource=thing&since=nonsense')).toEqual([400, 'BadRequest']);
  expect(await ask(`resource=thing&since=${gone}`)).toEqual([410, 'PositionGone']);
  const other = encodeCursor({ time: Date.now(), positions: ['', '', ''], snapshot: '' });
  expect(await ask(`resource=thing&since=${other}`)).toEqual([410, 'PositionGone']);
  expect((await ask('since=x'))[0]).toBe(400);
  expect(await ask('resource=thing&filter=(name=x')).toEqual([400, 'InvalidQueryError']);
  expect(await ask('resource=thing&filter=(secret=x)')).toEqual([400, 'NotIndexedError']);
  expect((await ask('resource=thing&filter='))[0]).toBe(400);
  expect((await ask('resource=thing&snapshot=perhaps'))[0]).toBe(400);
  expect((await ask('resource=thing&until=x'))[0]).toBe(400);
});

test('a client that goes leaves nothing behind', async () => {
  const log = new TestLog(1);
  const one = await instance(log);
  const feed = await listen(one, { resource: 'thing' });
  await feed.next();
  expect(one.broadcast.readers).toBe(1);
  feed.leave();
  await eventually(() => expect(one.broadcast.readers).toBe(0));
  log.append(log.make({ key: 'x' }));
  await one.reader.goOn();
});

test('a client that does not read is cut off, and the others go on', async () => {
  const log = new TestLog(1);
  const one = await instance(log, new TestKv(), { maxChanges: 200 });
  const stuck = await fetch(`${one.url}/feed?resource=thing`);
  const well = await listen(one, { resource: 'thing' });
  await well.next();
  let taken = 0;
  for (let i = 0; one.broadcast.readers === 2; i++) {
    log.append(log.make({ key: `k${i}`, value: { name: 'x'.repeat(100_000) } }));
    await one.reader.goOn();
    expect(await well.until('put')).toMatchObject({ key: `k${i}` });
    taken++;
  }
  expect(taken).toBeGreaterThan(200);
  const text = await stuck.text();
  const last = JSON.parse(text.trimEnd().split('\n').at(-1) ?? '') as FeedLine;
  expect(last).toMatchObject({ type: 'error', code: 'SlowReader', cursor: expect.any(String) });
});

test('closing the server ends the streams with a last line', async () => {
  const log = new TestLog(1);
  const one = await instance(log);
  const feed = await listen(one, { resource: 'thing' });
  await feed.next();
  const closed = one.app.close();
  expect(await feed.next()).toMatchObject({
    type: 'error',
    code: 'ServiceUnavailable',
    cursor: expect.any(String),
  });
  expect(await feed.next()).toBeUndefined();
  await closed;
});

test('with a filter: objects that match, and those that cease to, in the snapshot too', async () => {
  const log = new TestLog(1);
  const kv = new TestKv();
  const find = vi.spyOn(kv, 'find');
  await kv.put('things', 'b', { name: 'b', size: 20 });
  const one = await instance(log, kv);
  const filter = '(&(name=*)(size>=10))';
  const feed = await listen(one, { resource: 'thing', filter, snapshot: 'true' });
  expect(await feed.next()).toMatchObject({ type: 'snapshot', key: 'b' });
  expect(find).toHaveBeenCalledWith('things', filter, { noLimit: true });
  const [small, large] = [
    { name: 'a', size: 5 },
    { name: 'a', size: 10 },
  ];
  log.append(
    log.make({ key: 'small', value: small }),
    log.make({ key: 'enters', value: large, previous: small }),
    log.make({ key: 'stays', value: large, previous: large }),
    log.make({ key: 'leaves', value: small, previous: large }),
    log.make({ key: 'small', value: small, previous: small }),
    log.make({ key: 'small', op: 'delete', previous: small }),
    log.make({ key: 'large', op: 'delete', previous: large }),
    log.make({ key: 'other', bucket: 'others', value: large }),
    log.make({ key: 'new', value: large }),
  );
  await one.reader.goOn();
  const seen: string[] = [];
  while (!seen.includes('put new')) {
    const line = await feed.next();
    if (line !== undefined && 'key' in line) seen.push(`${line.type} ${line.key}`);
  }
  expect(seen).toEqual(['put enters', 'put stays', 'leave leaves', 'delete large', 'put new']);
});

test('readers who want a snapshot at the same time share one, and each sees every change that is not in it', async () => {
  const log = new TestLog(1);
  const kv = new TestKv();
  await kv.put('things', 'a', { name: 'a' });
  const found = await kv.find('things');
  let answer: () => void = () => undefined;
  const find = vi.spyOn(kv, 'find').mockImplementation(
    () =>
      new Promise((resolve) => {
        answer = () => resolve({ ...found, snapshot: '50:50:' } as never);
      }),
  );
  const one = await instance(log, kv);
  const first = await listen(one, { resource: 'thing', snapshot: 'true' });
  log.append(log.make({ key: 'in', xid: 49 }), log.make({ key: 'after', xid: 51 }));
  await one.reader.goOn();
  const second = await listen(one, { resource: 'thing', snapshot: 'true' });
  await eventually(() => expect(one.broadcast.readers).toBe(2));
  answer();
  for (const feed of [first, second]) {
    expect(await feed.next()).toMatchObject({ type: 'snapshot', key: 'a' });
    expect(await feed.until('put')).toMatchObject({ key: 'after' });
  }
  expect(find).toHaveBeenCalledTimes(1);
});

test('who waits for a snapshot hears that the instance lives: spaces ahead of the first line, and none later', async () => {
  const log = new TestLog(1);
  const kv = new TestKv();
  await kv.put('things', 'a', { name: 'a' });
  const found = await kv.find('things');
  let answer: () => void = () => undefined;
  vi.spyOn(kv, 'find').mockImplementation(
    () =>
      new Promise((resolve) => {
        answer = () => resolve(found as never);
      }),
  );
  // Longer than a loaded machine takes from a ping to its answer.
  const one = await instance(log, kv, {}, { pingMs: 500 });
  const { lines } = await socket(one, { resource: 'thing', snapshot: 'true' });
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    get(`${one.url}/feed?resource=thing&snapshot=true`, resolve).on('error', reject);
  });
  stops.push(async () => void response.destroy());
  let text = '';
  response.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  await eventually(() => expect(text).toMatch(/^ {2,}$/));
  expect(lines).toEqual([]);
  answer();
  // With bookmarks every 10 ms, for as long as two spaces would take.
  await eventually(() => expect(text.split('\n').length).toBeGreaterThan(100));
  const [first, ...rest] = text.split('\n').slice(0, -1);
  expect(JSON.parse(first ?? '')).toMatchObject({ type: 'snapshot', key: 'a' });
  for (const line of rest) expect(line).toMatch(/^\{.*\}$/);
  await eventually(() => expect(lines[0]).toMatchObject({ type: 'snapshot', key: 'a' }));
});

test('no more than four snapshots are held at once, and who does not take one makes room', {
  timeout: 120_000,
}, async () => {
  const log = new TestLog(1);
  const kv = new TestKv();
  for (let i = 0; i < 300; i++) await kv.put('things', `k${i}`, { name: 'n', pad: i });
  const present = () => ({ shown: 'x'.repeat(100_000) });
  const resources = { thing: { bucket: 'things', all: '(name=*)', index, present } };
  const one = await instance(log, kv, {}, { resources, stuckMs: 8_000 });
  const find = kv.find.bind(kv);
  const readers: number[] = [];
  vi.spyOn(kv, 'find').mockImplementation(async (...args: Parameters<typeof find>) => {
    // Who made room has gone by then.
    await new Promise((resolve) => setImmediate(resolve));
    readers.push(one.broadcast.readers);
    return find(...args) as never;
  });
  const stuck = await Promise.all(
    [1, 2, 3, 4].map(async (size) => {
      const filter = `(|(name=*)(size=${size}))`;
      return fetch(`${one.url}/feed?${new URLSearchParams({ resource: 'thing', filter, snapshot: 'true' })}`);
    }),
  );
  await eventually(() => expect(readers).toHaveLength(4));
  const well = await listen(one, { resource: 'thing', snapshot: 'true' });
  expect(await well.until('snapshot-end')).toMatchObject({ count: 300 });
  expect(readers).toHaveLength(5);
  expect(readers[4]).toBeLessThan(5);
  // Who begins to read before it is cut off is not stuck any more.
  await eventually(() => expect(one.broadcast.readers).toBe(1));
  for (const each of stuck) {
    const last = (await each.text()).trimEnd().split('\n').at(-1) ?? '';
    // Its socket took no more than a part: there is nothing to resume.
    expect(JSON.parse(last)).toEqual({ type: 'error', code: 'SlowReader', message: expect.any(String) });
  }
});

test('a cursor from before what the instance holds goes on from the log', async () => {
  const log = new TestLog(2);
  const first = await instance(log);
  const since = first.broadcast.cursor();
  for (let i = 0; i < 40; i++) log.append(log.make({ key: `k${i}` }));
  const later = await instance(log, new TestKv(), { tail: 1 });
  const feed = await listen(later, { resource: 'thing', since });
  const keys = new Set<string>();
  while (keys.size < 40) {
    const line = await feed.until('put');
    if (line?.type === 'put') keys.add(line.key);
  }
});

/** The same feed over a websocket. */
async function socket({ url }: Pick<TestInstance, 'url'>, query: Record<string, string>) {
  const made = new WebSocket(`${url.replace('http', 'ws')}/feed?${new URLSearchParams(query)}`);
  stops.push(async () => made.terminate());
  const lines: FeedLine[] = [];
  made.on('message', (data, binary) => {
    expect(binary).toBe(false);
    lines.push(JSON.parse(String(data)) as FeedLine);
  });
  const closed = new Promise<number>((resolve) => made.once('close', resolve));
  const refused = new Promise<number>((resolve) => {
    made.once('unexpected-response', (_request, response) => resolve(response.statusCode ?? 0));
    made.once('error', () => undefined);
  });
  return { made, lines, closed, refused };
}

test('over a websocket: the same lines, a message each, for as long as the client answers pings', async () => {
  const log = new TestLog(1);
  const kv = new TestKv();
  await kv.put('things', 'a', { name: 'a' });
  const one = await instance(log, kv, {}, { pingMs: 500 });
  const { made, lines, closed } = await socket(one, {
    resource: 'thing',
    snapshot: 'true',
    filter: '(name=a)',
  });
  const pinged = new Promise((resolve) => made.once('ping', resolve));
  await eventually(() => expect(lines.length).toBeGreaterThan(1));
  log.append(log.make({ key: 'b', value: { name: 'a' } }));
  await one.reader.goOn();
  await eventually(() => expect(lines.map(({ type }) => type)).toContain('put'));
  expect(lines[0]).toMatchObject({ type: 'snapshot', key: 'a' });
  expect(lines[1]).toMatchObject({ type: 'snapshot-end', count: 1 });
  await pinged;
  expect(made.readyState).toBe(made.OPEN);
  await one.app.close();
  await closed;
});

test('closing the server ends websockets with a last line that says where to go on, read or not', async () => {
  const log = new TestLog(1);
  const one = await instance(log);
  const [feed, silent] = [await socket(one, { resource: 'thing' }), await socket(one, { resource: 'thing' })];
  await eventually(() => expect(feed.lines.length * silent.lines.length).toBeGreaterThan(0));
  silent.made.pause();
  const closed = one.app.close();
  expect(await feed.closed).toBe(1013);
  const last = feed.lines.at(-1);
  expect(last).toMatchObject({ type: 'error', code: 'ServiceUnavailable' });
  await closed;
  log.append(log.make({ key: 'next', value: { name: 'x' } }));
  const two = await instance(log);
  const resumed = await listen(two, { resource: 'thing', since: cursorOf(last) });
  expect(await resumed.until('put')).toMatchObject({ key: 'next' });
});

test('a websocket that does not read is cut off with a last line', async () => {
  const log = new TestLog(1);
  const one = await instance(log, new TestKv(), { maxChanges: 200 });
  const { made, lines, closed } = await socket(one, { resource: 'thing' });
  await eventually(() => expect(lines.length).toBeGreaterThan(0));
  made.pause();
  while (one.broadcast.readers === 1) {
    log.append(log.make({ key: 'k', value: { name: 'x'.repeat(100_000) } }));
    await one.reader.goOn();
    await new Promise((resolve) => setImmediate(resolve));
  }
  made.resume();
  expect(await closed).toBe(1013);
  expect(lines.at(-1)).toMatchObject({ type: 'error', code: 'SlowReader', cursor: expect.any(String) });
});

test('a websocket whose client is silent is ended', async () => {
  const one = await instance(new TestLog(1), new TestKv(), {}, { pingMs: 500 });
  const { made } = await socket(one, { resource: 'thing' });
  await eventually(() => expect(one.broadcast.readers).toBe(1));
  made.pause();
  await eventually(() => expect(one.broadcast.readers).toBe(0));
});

test('a websocket that asks for what is not there is refused, or told why', async () => {
  const log = new TestLog(1);
  const one = await instance(log, new TestKv(), { maxChanges: 1 });
  const since = one.broadcast.cursor();
  for (let i = 0; i < 3; i++) log.append(log.make({ key: `k${i}` }));
  await one.reader.goOn();
  log.drop(1);
  expect(await (await socket(one, { resource: 'secrets' })).refused).toBe(404);
  expect(await (await socket(one, { resource: 'thing', filter: '(x=1)' })).refused).toBe(400);
  expect(await (await socket(one, { resource: 'thing', snapshot: 'perhaps' })).refused).toBe(400);
  const gone = await socket(one, { resource: 'thing', since });
  expect(await gone.closed).toBe(1008);
  expect(gone.lines).toMatchObject([{ type: 'error', code: 'PositionGone' }]);
});
