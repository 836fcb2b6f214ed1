import { get, type IncomingMessage } from 'node:http';
import { createInterface } from 'node:readline';
import { afterEach, expect, test, vi } from 'vitest';
import type { BroadcastOptions } from '../broadcast.ts';
import { TestKv } from '../testing/kv.ts';
import { TestLog } from '../testing/log.ts';
import { startInstance, type TestInstance } from '../testing/server.ts';
import { encodeCursor } from './cursor.ts';
import { type FeedLine, httpFeed } from './http.ts';

// A loaded machine is slow, not wrong.
vi.setConfig({ testTimeout: 30_000 });
const eventually = <T>(check: () => T | Promise<T>) => vi.waitFor(check, { timeout: 20_000 });

const stops: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
});

async function instance(
  log: TestLog,
  kv = new TestKv(),
  options: Partial<BroadcastOptions> = {},
): Promise<TestInstance> {
  const present = (value: unknown) => ({ shown: (value as { name?: string }).name });
  const made = await startInstance(
    log,
    async (app, broadcast) => {
      await app.register(httpFeed, {
        broadcast,
        kv,
        resources: { thing: { bucket: 'things', all: '(name=*)', present } },
        bookmarkMs: 10,
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
