import { createRequire } from 'node:module';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { WebSocket } from 'ws';
import { silentLogger } from '../../runtime/log.ts';
import type { BroadcastOptions } from '../broadcast.ts';
import { TestLog } from '../testing/log.ts';
import { startInstance, type TestInstance } from '../testing/server.ts';
import type { Change } from '../types.ts';
import { type TritonFeedOptions, type TritonResource, tritonFeed } from './triton.ts';

// A loaded machine is slow, not wrong.
const eventually = <T>(check: () => T | Promise<T>) => vi.waitFor(check, { timeout: 40_000 });

interface Item {
  readonly changeKind: { readonly resource: string; readonly subResources: readonly string[] };
  readonly changedResourceId: string;
  readonly published: string;
}
interface Listener {
  register(): void;
  on(event: string, handler: (value: never) => void): void;
  read(): Item | null;
  close(): void;
  readonly wsc: { send(text: string): void };
}
const { createListener } = createRequire(import.meta.url)('changefeed') as {
  createListener(options: object): Listener;
};

const quiet = { trace() {}, debug() {}, info() {}, warn() {}, error() {}, child: () => quiet };

function toItem(change: Change) {
  const value = (change.value ?? change.previous) as { name?: string; changed?: string[] };
  if (change.op === 'delete') return { subResources: ['delete'], changedResourceId: change.key };
  const subResources = change.previous === null ? ['create'] : (value.changed ?? []);
  return { subResources, changedResourceId: change.key, extra: { resourceObject: value } };
}
const resources: TritonResource[] = [
  { resource: 'vm', subResources: ['alias', 'state', 'tags'], bootstrapRoute: '/vms', bucket: 'vms', toItem },
  {
    resource: 'nic',
    subResources: ['create', 'delete', 'state'],
    bootstrapRoute: '/nics',
    bucket: 'nics',
    toItem,
  },
];

let log: TestLog;
const stops: (() => Promise<void> | void)[] = [];
beforeEach(() => {
  log = new TestLog(2);
});
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
});

async function instance(
  feed: Partial<TritonFeedOptions> = {},
  broadcastOptions: Partial<BroadcastOptions> = {},
): Promise<TestInstance> {
  const made = await startInstance(
    log,
    async (app, broadcast) => {
      await app.register(tritonFeed, { broadcast, resources, log: silentLogger(), ...feed });
    },
    broadcastOptions,
  );
  stops.push(() => made.stop());
  return made;
}

/** The npm package's listener, registered; `items` grows as it gets them. */
async function listener(url: string, options: object) {
  const made = createListener({ log: quiet, url, instance: 'one and the same', service: 'test', ...options });
  stops.push(() => made.close());
  const items: Item[] = [];
  const bootstraps: unknown[] = [];
  const errors: unknown[] = [];
  made.on('readable', () => {
    for (let item = made.read(); item !== null; item = made.read()) items.push(item);
  });
  made.on('bootstrap', (route: never) => bootstraps.push(route));
  made.on('error', (error: never) => errors.push(error));
  const ended = new Promise<void>((resolve) => made.on('connection-end', () => resolve()));
  made.register();
  await eventually(() => expect(bootstraps.length + errors.length).toBeGreaterThan(0));
  return { listener: made, items, bootstraps, errors, ended };
}

const vms = { changeKind: { resource: 'vm', subResources: ['alias', 'state'] } };
const both = {
  resources: [
    { resource: 'nic', subResources: ['create', 'delete'] },
    { resource: 'vm', subResources: ['state'] },
  ],
};

test('npm listeners of both versions get every item once from each of two servers, in order', async () => {
  const servers = [await instance(), await instance()];
  const listeners = await Promise.all(
    servers.flatMap(({ url }) => [listener(url, vms), listener(url, vms), listener(url, both)]),
  );
  expect(listeners[0]?.bootstraps).toEqual([
    { resource: 'vm', subResources: ['alias', 'state', 'tags'], bootstrapRoute: '/vms' },
  ]);
  expect(listeners[2]?.bootstraps).toMatchObject([{ bootstrapRoute: '/nics' }, { bootstrapRoute: '/vms' }]);

  const ids: string[] = [];
  for (let i = 0; i < 20; i++) {
    const value = { name: `n${i}`, changed: ['alias', 'state'] };
    log.append(
      log.make({ bucket: 'vms', key: `vm${i}`, partitionKey: 'owner', value, previous: {}, time: 5 + i }),
    );
    ids.push(`vm${i}`);
  }
  log.append(log.make({ bucket: 'vms', key: 'tagged', value: { changed: ['tags'] }, previous: {} }));
  log.append(log.make({ bucket: 'others', key: 'x' }));
  log.append(log.make({ bucket: 'nics', key: 'nic1', partitionKey: 'owner' }));
  log.append(log.make({ bucket: 'nics', key: 'nic1', partitionKey: 'owner', op: 'delete', previous: {} }));
  for (const { reader } of servers) await reader.goOn();

  const idsOf = (index: number) => listeners[index]?.items.map((item) => item.changedResourceId);
  await eventually(() => {
    for (const i of [2, 5]) expect(idsOf(i)).toHaveLength(22);
    for (const i of [0, 1, 3, 4]) expect(idsOf(i)).toHaveLength(20);
  });
  for (const i of [0, 1, 3, 4]) expect(idsOf(i)).toEqual(ids);
  for (const i of [2, 5]) expect(idsOf(i)).toEqual([...ids, 'nic1', 'nic1']);
  expect(listeners[0]?.items[3]).toEqual({
    changeKind: { resource: 'vm', subResources: ['alias', 'state'] },
    changedResourceId: 'vm3',
    published: '8',
    resourceObject: { name: 'n3', changed: ['alias', 'state'] },
  });
  expect(listeners.flatMap((l) => l.errors)).toEqual([]);
});

test('the resources and the statistics, for a client that asks for a version', async () => {
  const { url } = await instance();
  const ask = async (path: string) => {
    const answer = await fetch(`${url}${path}`, { headers: { 'accept-version': '~2' } });
    return (await answer.json()) as object;
  };
  expect(await ask('/changefeeds')).toEqual({
    vm: { resource: 'vm', subResources: ['alias', 'state', 'tags'], bootstrapRoute: '/vms' },
    nic: { resource: 'nic', subResources: ['create', 'delete', 'state'], bootstrapRoute: '/nics' },
  });
  const [a, b] = [await listener(url, vms), await listener(url, both)];
  expect(await ask('/changefeeds/stats')).toMatchObject({
    listeners: 2,
    registrations: { vm: [{ instance: 'one and the same' }, { instance: 'one and the same' }], nic: [{}] },
  });
  a.listener.close();
  b.listener.close();
  await eventually(async () => expect(await ask('/changefeeds/stats')).toMatchObject({ listeners: 0 }));
});

test('heartbeats are taken without an answer', async () => {
  const { url, reader } = await instance();
  const { listener: npm, items, errors } = await listener(url, vms);
  npm.wsc.send('heartbeat');
  npm.wsc.send('heartbeat');
  log.append(log.make({ bucket: 'vms', key: 'a', value: { changed: ['state'] }, previous: {} }));
  await reader.goOn();
  await eventually(() => expect(items).toHaveLength(1));
  expect(errors).toEqual([]);
});

test('the npm listener notices that its server ended, and goes on with another', async () => {
  const [one, two] = [await instance(), await instance()];
  const first = await listener(one.url, vms);
  await one.stop();
  await first.ended;
  const second = await listener(two.url, vms);
  log.append(log.make({ bucket: 'vms', key: 'a', value: { changed: ['state'] }, previous: {} }));
  await two.reader.goOn();
  await eventually(() => expect(second.items).toHaveLength(1));
});

/** What a registration by hand ends with. */
function refused(url: string, version: string | undefined, text: string | Buffer): Promise<[number, string]> {
  const headers = version === undefined ? {} : { 'accept-version': version };
  const socket = new WebSocket(`${url.replace('http', 'ws')}/changefeeds`, { headers });
  stops.push(() => socket.terminate());
  socket.on('open', () => socket.send(text));
  return new Promise((resolve, reject) => {
    socket.on('error', reject);
    socket.on('message', (data) => reject(new Error(`accepted: ${data}`)));
    socket.on('close', (code, reason) => resolve([code, reason.toString()]));
  });
}

test('where changes may have been missed a listener is ended, registers again and reads everything', async () => {
  const one = await instance();
  const before = await listener(one.url, vms);
  log.open(2);
  await one.reader.goOn();
  await before.ended;
  const after = await listener(one.url, vms);
  await one.reader.push([
    log.make({ bucket: 'vms', key: 'a', value: { changed: ['state'] }, previous: {}, epoch: 2 }),
  ]);
  await eventually(() => expect(after.items).toHaveLength(1));
});

test.each([
  ['~1', 'not json', /failed to parse v1/],
  ['~1', 'null', /invalid v1/],
  ['~2', '[]', /invalid v2/],
  [undefined, JSON.stringify({ instance: 'a', ...both }), /invalid v1 registration: changeKind/],
  ['~1', JSON.stringify({ ...vms }), /invalid v1 registration: instance/],
  [
    '~1',
    JSON.stringify({ instance: 'a', changeKind: { resource: 'vm', subResources: [1] } }),
    /subResources/,
  ],
  [
    '~1',
    JSON.stringify({ instance: 'a', changeKind: { resource: 'toString', subResources: [] } }),
    /unknown resource/,
  ],
  ['~2', JSON.stringify({ instance: 'a', resources: [] }), /invalid v2/],
  [
    '~2',
    JSON.stringify({ instance: 'a', resources: [{ resource: 'disk', subResources: [] }] }),
    /unknown resource: disk/,
  ],
])('a registration that is wrong is refused, with the reason (%s %s)', async (version, text, reason) => {
  const { url } = await instance();
  const [code, why] = await refused(url, version, text);
  expect(code).toBe(1008);
  expect(why).toMatch(reason);
});

test('a listener that does not read is cut off, and the others get everything', async () => {
  const { url, reader } = await instance({ maxBuffered: 1_000_000 });
  const stuck = new WebSocket(`${url.replace('http', 'ws')}/changefeeds`, {
    headers: { 'accept-version': '~1' },
  });
  stops.push(() => stuck.terminate());
  await new Promise((resolve) => stuck.once('open', resolve));
  stuck.send(JSON.stringify({ instance: 'stuck', ...vms }));
  await new Promise((resolve) => stuck.once('message', resolve));
  stuck.pause();
  const well = await listener(url, vms);
  const listeners = async () =>
    ((await (await fetch(`${url}/changefeeds/stats`)).json()) as { listeners: number }).listeners;
  let sent = 0;
  while ((await listeners()) === 2) {
    const value = { changed: ['state'], pad: 'x'.repeat(200_000) };
    log.append(log.make({ bucket: 'vms', key: `k${sent++}`, partitionKey: 'o', value, previous: {} }));
    await reader.goOn();
    await eventually(() => expect(well.items).toHaveLength(sent));
  }
  const closed = new Promise<number>((resolve) => stuck.once('close', resolve));
  stuck.resume();
  expect(await closed).toBe(1013);
});

test('closing the server ends every listener', async () => {
  const one = await instance();
  const npm = await listener(one.url, both);
  await one.app.close();
  await npm.ended;
});
