import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { vmsBucket } from '../common/records.ts';
import { serversBucket, statusBucket } from './models/buckets.ts';
import type { StatusRecord } from './models/status.ts';
import { type Obj, startCnapi, sysinfoOf, type TestCnapi } from './testing/cnapi.ts';

// Everything here waits for PostgreSQL's disk.
vi.setConfig({ testTimeout: 180_000, hookTimeout: 240_000 });

let cnapi: TestCnapi;
beforeAll(async () => {
  cnapi = await startCnapi(2);
});
afterAll(() => cnapi?.close());

const call = <T = Obj>(method: string, ...args: unknown[]) => cnapi.client().call<T>(method, ...args);
const refused = (method: string, ...args: unknown[]) => cnapi.client().refused(method, ...args);
const notFound = (uuid: string) => ({
  status: 404,
  body: { code: 'ResourceNotFound', message: `Server ${uuid} not found` },
});
const beat = (uuid: string) => cnapi.request('POST', `/servers/${uuid}/events/heartbeat`, {});

async function napi(path: string): Promise<Obj[] & Obj> {
  return (await (await fetch(`${cnapi.stack.urls.napi[0]}${path}`)).json()) as Obj[] & Obj;
}

describe('sysinfo', () => {
  test('registers a server, and its underlay NIC in NAPI', async () => {
    const uuid = randomUUID();
    expect((await cnapi.register(uuid, { Hostname: 'one' })).status).toBe(200);
    const server = await call('getServer', uuid);
    expect(server).toMatchObject({
      uuid,
      hostname: 'one',
      datacenter: 'conger',
      setup: true,
      setting_up: false,
      reserved: false,
      reservoir: false,
      headnode: false,
      status: 'unknown',
      last_heartbeat: null,
      ram: 1000,
      current_platform: '20231114T000000Z',
      boot_platform: '20231114T000000Z',
      last_boot: '2023-11-14T22:13:20.000Z',
      system_type: 'SunOS',
      overprovision_ratios: {},
      traits: {},
      agents: [],
      vms: {},
      unreserved_ram: 850,
      unreserved_cpu: 100,
      unreserved_disk: 102_400,
      sysinfo: { UUID: uuid, Hostname: 'one' },
    });
    const { 'Network Interfaces': nics } = server.sysinfo as { 'Network Interfaces': { underlay: Obj } };
    const [nic, ...more] = await napi(`/nics?belongs_to_uuid=${uuid}`);
    expect(more).toEqual([]);
    expect(nic).toMatchObject({
      belongs_to_type: 'server',
      cn_uuid: uuid,
      ip: nics.underlay.ip4addr,
      nic_tag: 'underlay',
      nic_tags_provided: ['underlay'],
      state: 'running',
      underlay: true,
    });
  });

  test('that comes several times at once registers one server', async () => {
    const uuid = randomUUID();
    const body = { sysinfo: sysinfoOf(uuid) };
    const answers = await Promise.all(
      [1, 2, 3, 4].map(() => cnapi.request('POST', `/servers/${uuid}/sysinfo`, body)),
    );
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    expect(await napi(`/nics?belongs_to_uuid=${uuid}`)).toHaveLength(1);
  });

  test('that says the same again writes nothing, and what it says anew is written', async () => {
    const uuid = randomUUID();
    const sysinfo = sysinfoOf(uuid);
    const tell = (more: Obj = {}) =>
      cnapi.request('POST', `/servers/${uuid}/sysinfo`, { sysinfo: { ...sysinfo, ...more } });
    await tell();
    const before = await cnapi.stack.kv.get(serversBucket.name, uuid);
    await Promise.all([tell(), tell(), tell()]);
    expect((await cnapi.stack.kv.get(serversBucket.name, uuid))._etag).toBe(before._etag);
    await call('updateServer', uuid, { comments: 'the operator’s', reserved: true });
    const { underlay } = sysinfo['Network Interfaces'] as { underlay: Obj };
    const moved = { underlay: { ...underlay, ip4addr: '10.99.200.1' } };
    await tell({ Hostname: 'renamed', 'MiB of Memory': '2000', 'Network Interfaces': moved });
    expect(await call('getServer', uuid)).toMatchObject({
      hostname: 'renamed',
      ram: 2000,
      comments: 'the operator’s',
      reserved: true,
    });
    expect((await napi(`/nics?belongs_to_uuid=${uuid}`)).map(({ ip }) => ip)).toEqual(['10.99.200.1']);
  });

  test.each<[string, (uuid: string) => unknown]>([
    ['of another server', () => ({ sysinfo: sysinfoOf(randomUUID()) })],
    ['without a host name', (uuid) => ({ sysinfo: { UUID: uuid } })],
    ['that is none', () => ({ sysinfo: 'x' })],
    ['with something beside it', (uuid) => ({ sysinfo: sysinfoOf(uuid), colour: 1 })],
    ['with NICs that are none', (uuid) => ({ sysinfo: sysinfoOf(uuid, { 'Network Interfaces': { a: 1 } }) })],
    ['that is missing', () => ({})],
  ])('%s is refused', async (_what, bodyOf) => {
    const uuid = randomUUID();
    const answer = await cnapi.request('POST', `/servers/${uuid}/sysinfo`, bodyOf(uuid));
    expect(answer).toMatchObject({
      status: 500,
      body: { code: 'InvalidParameters', message: 'Request parameters failed validation' },
    });
    expect(answer.body.errors[0]).toMatchObject({ code: 'Invalid' });
    expect(await cnapi.stack.kv.tryGet(serversBucket.name, uuid)).toBeUndefined();
    expect(await napi(`/nics?belongs_to_uuid=${uuid}`)).toEqual([]);
  });
});

describe('servers', () => {
  test('are listed by what they are, in pages, with what is asked for', async () => {
    const uuids = [randomUUID(), randomUUID(), randomUUID()].sort();
    for (const uuid of uuids) await cnapi.register(uuid, { Hostname: `list-${uuid.slice(0, 8)}` });
    const [first = '', second = ''] = uuids;
    await call('updateServer', second, { reservoir: true });
    const found = async (query: Obj) =>
      (await call<Obj[]>('listServers', { uuids: uuids.join(','), ...query })).map(({ uuid }) => uuid);
    expect(await found({})).toEqual(uuids);
    expect(await found({ limit: 1, offset: 1 })).toEqual([second]);
    expect(await found({ reservoir: true })).toEqual([second]);
    expect(await found({ hostname: `list-${first.slice(0, 8)}` })).toEqual([first]);
    expect(await found({ setup: false })).toEqual([]);
    const [plain] = await call<Obj[]>('listServers', { uuids: first });
    for (const field of ['sysinfo', 'vms', 'agents', 'unreserved_ram', 'last_heartbeat'])
      expect(plain).not.toHaveProperty(field);
    const [full] = await call<Obj[]>('listServers', { uuids: first, extras: 'sysinfo,capacity' });
    expect(full).toMatchObject({ sysinfo: { UUID: first }, unreserved_ram: 850, last_heartbeat: null });
    expect(await call('listServers', { uuids: first, fields: 'uuid,hostname' })).toEqual([
      { uuid: first, hostname: `list-${first.slice(0, 8)}` },
    ]);
  });

  test('are changed by operators at once without losing a word, and deleted', async () => {
    const uuid = randomUUID();
    await cnapi.register(uuid);
    const changes: Obj = {
      comments: 'a',
      reserved: true,
      traits: { ssd: true },
      rack_identifier: 'r1',
      overprovision_ratios: { ram: 2 },
      reservation_ratio: 0.5,
    };
    await Promise.all(
      Object.entries(changes).map(([name, value]) => call('updateServer', uuid, { [name]: value })),
    );
    expect(await call('getServer', uuid)).toMatchObject({ ...changes, unreserved_ram: 1000 });
    await cnapi.request('DELETE', `/servers/${uuid}`);
    expect(await refused('getServer', uuid)).toEqual(notFound(uuid));
    expect(await refused('updateServer', uuid, { comments: 'b' })).toEqual(notFound(uuid));
    expect(await cnapi.request('DELETE', `/servers/${uuid}`)).toEqual(notFound(uuid));
  });

  test.each<[string, unknown, number, string]>([
    ['an unknown field', { colour: 1 }, 500, 'InvalidParameters'],
    ['a wrong type', { reserved: 'yes' }, 500, 'InvalidParameters'],
    ['a wrong ratio', { overprovision_ratios: { ram: -1 } }, 500, 'InvalidParameters'],
    ['malformed JSON', '{"reserved":', 400, 'InvalidContent'],
    ['more than 1 MB', JSON.stringify({ comments: 'x'.repeat(1024 * 1024) }), 413, 'RequestEntityTooLarge'],
  ])('%s is refused and nothing is written', async (_what, body, status, code) => {
    const uuid = randomUUID();
    await cnapi.register(uuid);
    const { _etag } = await cnapi.stack.kv.get(serversBucket.name, uuid);
    const answer = await cnapi.request('POST', `/servers/${uuid}`, body);
    expect([answer.status, answer.body.code]).toEqual([status, code]);
    expect((await cnapi.stack.kv.get(serversBucket.name, uuid))._etag).toBe(_etag);
    expect((await cnapi.request('GET', '/ping')).body.ready).toBe(true);
  });
});

test('heartbeats to all instances are one write', async () => {
  const uuid = randomUUID();
  await cnapi.register(uuid);
  const writes: string[] = [];
  const { broadcast } = cnapi.instances[0]?.context ?? {};
  const unsubscribe = broadcast?.subscribe({
    buckets: [statusBucket.name],
    onChange: ({ key, value }) => {
      if (key === uuid) writes.push((value as StatusRecord).status);
    },
  });
  for (let i = 0; i < 12; i++) expect((await beat(uuid)).status).toBe(204);
  expect(await call('getServer', uuid)).toMatchObject({
    status: 'running',
    last_heartbeat: expect.any(String),
  });
  // Changes of one server come in order: behind this one there is no write of a heartbeat any more.
  const mark = { server_uuid: uuid, status: 'unknown', instance: 'test', session: 'test' };
  await cnapi.stack.kv.put(statusBucket.name, uuid, mark);
  await broadcast?.waitFor({ bucket: statusBucket.name, key: uuid, timeoutMs: 150_000 }, async () =>
    writes.includes('unknown') ? true : undefined,
  );
  expect(writes.slice(0, 2)).toEqual(['running', 'unknown']);
  unsubscribe?.();
  const nobody = randomUUID();
  expect(await beat(nobody)).toEqual(notFound(nobody));
});

describe('allocation', () => {
  const place = (servers: readonly string[], vm: Obj = {}, more: Obj = {}) =>
    cnapi.request('POST', '/allocate', {
      vm: { owner_uuid: randomUUID(), ram: 256, ...vm },
      image: {},
      nic_tags: ['sdc_overlay/77'],
      servers,
      ...more,
    });
  const putVm = (server: string, fields: Obj) => {
    const uuid = randomUUID();
    const vm = { uuid, owner_uuid: randomUUID(), server_uuid: server, state: 'running', ...fields };
    return cnapi.stack.kv.put(vmsBucket.name, uuid, vm);
  };

  test('among no servers finds none', async () => {
    expect(await place([])).toMatchObject({ status: 409, body: { code: 'NoAllocatableServersError' } });
    const capacity = await cnapi.request('POST', '/capacity', { servers: [] });
    expect(capacity).toMatchObject({ status: 200, body: { capacities: {} } });
  });

  test('goes to the server with the most room left, of those that will do', async () => {
    const servers = Array.from({ length: 5 }, () => randomUUID());
    const [full, roomy, reserved, silent, bare] = servers as [string, string, string, string, string];
    for (const uuid of servers) await cnapi.register(uuid, uuid === bare ? { 'Network Interfaces': {} } : {});
    for (const uuid of servers) if (uuid !== silent) await beat(uuid);
    await call('updateServer', reserved, { reserved: true });
    await putVm(full, { ram: 700 });
    await putVm(roomy, { ram: 100, quota: 10, cpu_cap: 40 });
    await putVm(roomy, { ram: 5000, state: 'destroyed' });
    const answer = await place(servers);
    expect(answer).toMatchObject({
      status: 200,
      body: { server: { uuid: roomy, unreserved_ram: 750, status: 'running' } },
    });
    const steps = answer.body.steps as { step: string; remaining: string[]; reasons: Obj }[];
    expect(steps.map(({ remaining }) => remaining.length)).toEqual([5, 4, 3, 2, 1, 1]);
    expect(Object.assign({}, ...steps.map(({ reasons }) => reasons))).toEqual({
      [reserved]: 'reserved',
      [silent]: 'not running',
      [bare]: 'has no NIC with the tag underlay',
      [full]: '150 MiB left',
    });
    expect(await call('capacity', [full, roomy])).toMatchObject({
      capacities: { [full]: { ram: 150, cpu: 100 }, [roomy]: { ram: 750, cpu: 60, disk: 92_160 } },
    });
    // VMs on their way count as well.
    await putVm(roomy, { ram: 600, state: 'provisioning' });
    expect(await place(servers)).toMatchObject({
      status: 409,
      body: {
        code: 'NoAllocatableServersError',
        message: expect.stringMatching(
          /^No compute resources available: no servers with enough unreserved RAM/,
        ),
      },
    });
    expect((await place(servers, { ram: 140 })).body.server).toMatchObject({ status: 'running' });
    expect((await place([full], { ram: 10, cpu_cap: 101 })).body.code).toBe('NoAllocatableServersError');
  });

  test.each<[string, Obj]>([
    ['no VM', { vm: undefined }],
    ['a VM without memory', { vm: { owner_uuid: randomUUID() } }],
    ['servers that are none', { servers: ['x'] }],
    ['tags that are none', { nic_tags: 'external' }],
    ['an unknown field', { colour: 1 }],
  ])('%s is refused', async (_what, more) => {
    expect(await place([], {}, more)).toMatchObject({ status: 500, body: { code: 'InvalidParameters' } });
  });
});

test('the OpenAPI document describes every route', async () => {
  const { status, body } = await cnapi.request('GET', '/docs/json');
  expect(status).toBe(200);
  expect(Object.keys(body.paths)).toEqual(
    expect.arrayContaining(['/servers/{uuid}', '/tasks/{id}/wait', '/allocate']),
  );
});
