import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { type DesiredOf, desiredBucket, desiredSchema } from '../../agents/contract/desired.ts';
import { parsePosition } from '../../changefeed/position.ts';
import { type Instance, type Stack, startStack } from '../../test/fixtures/stack.ts';
import { vmsBucket } from '../common/records.ts';
import { setupVmapi } from './setup.ts';
import { startNeighbours, startNodes } from './testing/neighbours.ts';
import { type JobAnswer, type Obj, type SdcError, type SdcVmapi, sdcVmapi } from './testing/sdc-client.ts';

// Everything here waits for PostgreSQL's disk.
vi.setConfig({ testTimeout: 180_000, hookTimeout: 240_000 });

const owner = randomUUID();
const servers = [randomUUID(), randomUUID()];
const image = randomUUID();
const fabric = { uuid: randomUUID(), name: 'fab', owner_uuid: owner, vnet_id: 4711, prefix: '192.168.7' };
const other = { uuid: randomUUID(), name: 'other', owner_uuid: owner, vnet_id: 4712, prefix: '192.168.8' };

let stack: Stack;
let instances: Instance[];
let neighbours: Awaited<ReturnType<typeof startNeighbours>>;
let nodes: ReturnType<typeof startNodes>;
let clients: SdcVmapi[];
/** Nodes have time, but where a test wants one to be late. */
const patience = { nodeTimeoutMs: 150_000 };

beforeAll(async () => {
  neighbours = await startNeighbours([fabric, other], servers);
  stack = await startStack();
  const overrides = { napi: [neighbours.url], cnapi: [neighbours.url] };
  const start = () => stack.start('vmapi', (context) => setupVmapi(context, patience), overrides);
  instances = [await start(), await start()];
  clients = instances.map(({ url }) => sdcVmapi(url));
  nodes = startNodes(
    first(instances).context.broadcast,
    instances.map(({ url }) => url),
  );
});

afterAll(async () => {
  for (const client of clients ?? []) client.close();
  await nodes?.stop();
  await stack?.close();
  await neighbours?.stop();
});

function first<T>(of: readonly T[]): T {
  const [one] = of;
  if (one === undefined) throw new Error('there is none');
  return one;
}

/** Another instance each time: no call may depend on which one answers. */
let turn = 0;
function vmapi(): SdcVmapi {
  return clients[turn++ % clients.length] as SdcVmapi;
}
function url(): string {
  return (instances[turn++ % instances.length] as Instance).url;
}

async function ended({ job_uuid }: JobAnswer): Promise<Obj> {
  const answer = await fetch(`${url()}/jobs/${job_uuid}/wait?timeout=150`);
  expect(answer.status).toBe(200);
  return (await answer.json()) as Obj;
}

/** The end of a job that begins while no node has much time. */
async function endedInHaste(begin: () => Promise<JobAnswer>): Promise<Obj> {
  const { nodeTimeoutMs } = patience;
  patience.nodeTimeoutMs = 500;
  try {
    return await ended(await begin());
  } finally {
    patience.nodeTimeoutMs = nodeTimeoutMs;
  }
}

async function succeeded(answer: JobAnswer): Promise<Obj> {
  const job = await ended(answer);
  expect({ execution: job.execution, results: job.chain_results }).toMatchObject({ execution: 'succeeded' });
  return job;
}

function payload(more: Obj = {}): Obj {
  return {
    owner_uuid: owner,
    brand: 'joyent',
    ram: 128,
    image_uuid: image,
    networks: [{ uuid: fabric.uuid }],
    ...more,
  };
}

async function create(more: Obj = {}): Promise<Obj> {
  const answer = await vmapi().createVm(payload(more));
  await succeeded(answer);
  return vmapi().getVm({ uuid: answer.vm_uuid });
}

async function request(method: string, path: string, body?: unknown, headers: Record<string, string> = {}) {
  const answer = await fetch(`${url()}${path}`, {
    method,
    headers: { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await answer.text();
  return { status: answer.status, headers: answer.headers, body: text === '' ? undefined : JSON.parse(text) };
}

async function refusal(call: Promise<unknown>): Promise<SdcError> {
  try {
    await call;
  } catch (error) {
    return error as SdcError;
  }
  throw new Error('it was not refused');
}

function kv() {
  return first(instances).context.kv;
}

async function desiredOf(uuid: unknown) {
  const found = await kv().tryGet(desiredBucket.name, `vm/${uuid}`);
  return found === undefined ? undefined : (desiredSchema.parse(found.value) as DesiredOf<'vm'>);
}

function nicsOf(uuid: unknown) {
  return [...neighbours.nics.values()].filter((nic) => nic.belongs_to_uuid === uuid);
}

/**
 * Resolves with what is first put of a VM in one commit both into its record and into what is desired of its node (null:
 * nothing any more), `times` times from now on.
 */
function commitsOf(uuid: unknown, times: number): Promise<{ vm: unknown; desired: unknown }[]> {
  const commits = new Map<bigint, { vm?: unknown; desired?: unknown }>();
  return new Promise((resolve) => {
    const stop = first(instances).context.broadcast.subscribe({
      buckets: [vmsBucket.name, desiredBucket.name],
      onChange: ({ bucket, key, position, value }) => {
        if (!key.endsWith(String(uuid))) return;
        const { lsn } = parsePosition(position);
        const part =
          bucket === vmsBucket.name ? { vm: value } : { desired: (value as Obj | null)?.body ?? null };
        commits.set(lsn, { ...commits.get(lsn), ...part });
        const both = [...commits.values()].flatMap(({ vm, desired }) =>
          vm === undefined || desired === undefined ? [] : [{ vm, desired }],
        );
        if (both.length < times) return;
        stop();
        resolve(both);
      },
    });
  });
}

describe('VMAPI', () => {
  it('creates a VM, and tells its node what to make', async () => {
    const vm = await create({ alias: 'web0', tags: { role: 'web' }, firewall_enabled: true });
    expect(vm).toMatchObject({
      alias: 'web0',
      autoboot: true,
      brand: 'joyent',
      state: 'running',
      zone_state: 'running',
      owner_uuid: owner,
      image_uuid: image,
      ram: 128,
      max_physical_memory: 128,
      max_swap: 256,
      quota: 10,
      cpu_shares: 1,
      billing_id: null,
      destroyed: null,
      firewall_enabled: true,
      tags: { role: 'web' },
      customer_metadata: {},
      snapshots: [],
      datasets: [],
      resolvers: ['8.8.8.8'],
    });
    expect(servers).toContain(vm.server_uuid);
    expect(vm.nics).toEqual([
      {
        interface: 'net0',
        mac: expect.stringMatching(/^90:b8:d0:/),
        ip: expect.stringMatching(/^192\.168\.7\./),
        ips: [expect.stringMatching(/^192\.168\.7\.\d+\/24$/)],
        netmask: '255.255.255.0',
        gateway: '192.168.7.1',
        gateways: ['192.168.7.1'],
        vlan_id: 2,
        nic_tag: 'sdc_overlay/4711',
        mtu: 1400,
        network_uuid: fabric.uuid,
        primary: true,
      },
    ]);
    expect(await desiredOf(vm.uuid)).toMatchObject({
      kind: 'vm',
      owner_uuid: owner,
      span: [vm.server_uuid],
      body: {
        uuid: vm.uuid,
        alias: 'web0',
        state: 'running',
        reboots: 0,
        firewall_enabled: true,
        nics: [{ vnet_id: 4711, mtu: 1400 }],
      },
    });
    expect(nicsOf(vm.uuid)).toMatchObject([
      { cn_uuid: vm.server_uuid, belongs_to_type: 'zone', primary: true },
    ]);
  });

  it('is the workflow API of its own jobs', async () => {
    const made = await request('POST', '/vms', payload());
    const workflow = String(made.headers.get('workflow-api'));
    expect(instances.map((instance) => instance.url)).toContain(workflow);
    await succeeded(made.body);
    const answer = await fetch(`${workflow}/jobs/${made.body.job_uuid}`);
    const job = (await answer.json()) as Obj;
    expect(job).toMatchObject({
      uuid: made.body.job_uuid,
      vm_uuid: made.body.vm_uuid,
      name: expect.stringMatching(/^provision-/),
      execution: 'succeeded',
      params: { task: 'provision', vm_uuid: made.body.vm_uuid, owner_uuid: owner },
    });
    expect((job.chain_results as Obj[]).at(-1)).toMatchObject({ result: 'OK', error: '' });
    const jobs = await vmapi().listJobs({
      vm_uuid: made.body.vm_uuid,
      task: 'provision',
      execution: 'succeeded',
    });
    expect(jobs).toEqual([job]);
    expect(await vmapi().listJobs({ vm_uuid: made.body.vm_uuid, execution: 'failed' })).toEqual([]);
  });

  it('stops, starts and reboots it, and answers with sync when that is done', async () => {
    const { uuid } = await create();
    await succeeded(await vmapi().stopVm({ uuid }));
    expect(await vmapi().getVm({ uuid })).toMatchObject({ state: 'stopped', zone_state: 'installed' });
    await vmapi().startVm({ uuid, sync: true });
    expect(await vmapi().getVm({ uuid })).toMatchObject({ state: 'running' });
    await succeeded(await vmapi().rebootVm({ uuid }));
    expect(nodes.reboots.get(String(uuid))).toBe(1);
  });

  it('destroys it, and frees what it had', async () => {
    const { uuid } = await create();
    const before = nicsOf(uuid);
    expect(before).toHaveLength(1);
    await succeeded(await vmapi().deleteVm({ uuid }));
    const vm = await vmapi().getVm({ uuid });
    expect(vm).toMatchObject({ state: 'destroyed', zone_state: 'destroyed' });
    expect(Date.parse(String(vm.destroyed))).not.toBeNaN();
    expect(nicsOf(uuid)).toEqual([]);
    expect(await desiredOf(uuid)).toBeUndefined();
    const late = { state: 'running', server_uuid: vm.server_uuid, last_modified: new Date().toISOString() };
    await request('PUT', `/vms/${uuid}`, late);
    expect(await vmapi().getVm({ uuid })).toEqual(vm);
  });

  it('does one job after another: created, then at once destroyed', async () => {
    const made = await vmapi().createVm(payload());
    const gone = await vmapi().deleteVm({ uuid: made.vm_uuid });
    const [create, destroy] = [await succeeded(made), await succeeded(gone)];
    expect(Date.parse(String(create.ended_at))).toBeLessThanOrEqual(Date.parse(String(destroy.ended_at)));
    expect(await vmapi().getVm({ uuid: made.vm_uuid })).toMatchObject({ state: 'destroyed' });
    expect(nicsOf(made.vm_uuid)).toEqual([]);
    expect(await desiredOf(made.vm_uuid)).toBeUndefined();
  });

  it('makes one VM of a request that is repeated, on any instance, at once or later', async () => {
    const headers = { 'x-request-id': randomUUID() };
    const body = payload({ alias: `once-${randomUUID()}` });
    const [a, b] = await Promise.all([
      request('POST', '/vms', body, headers),
      request('POST', '/vms', body, headers),
    ]);
    expect([a.status, b.status]).toEqual([202, 202]);
    expect(b.body).toEqual(a.body);
    await succeeded(a.body);
    const again = await request('POST', '/vms', body, headers);
    expect(again).toMatchObject({ status: 202, body: a.body });
    expect(nicsOf(a.body.vm_uuid)).toHaveLength(1);
    const stop = () => request('POST', `/vms/${a.body.vm_uuid}?action=stop`, {}, headers);
    expect((await stop()).body).toEqual((await stop()).body);
    expect(await vmapi().listJobs({ vm_uuid: a.body.vm_uuid })).toHaveLength(2);
  });

  it('undoes everything when a step fails, and says why', async () => {
    neighbours.refuse({ call: 'POST /networks', status: 507, code: 'SubnetFull' });
    const full = await vmapi().createVm(payload());
    const job = await ended(full);
    neighbours.refuse(undefined);
    expect(job).toMatchObject({
      execution: 'failed',
      chain_results: [
        { name: 'cnapi.allocate_server', error: '' },
        { name: 'napi.provision_nics', error: { code: 'SubnetFull' } },
      ],
    });
    expect(await vmapi().getVm({ uuid: full.vm_uuid })).toMatchObject({ state: 'failed', nics: [] });
    expect(nicsOf(full.vm_uuid)).toEqual([]);
    await succeeded(await vmapi().deleteVm({ uuid: full.vm_uuid }));
    expect(await vmapi().getVm({ uuid: full.vm_uuid })).toMatchObject({ state: 'destroyed' });
  });

  it('waits for a node until the step’s deadline, and then takes everything back', async () => {
    nodes.setAway(true);
    const job = await endedInHaste(() => vmapi().createVm(payload()));
    nodes.setAway(false);
    expect(job).toMatchObject({ execution: 'failed' });
    expect((job.chain_results as Obj[]).at(-1)).toMatchObject({
      name: 'vmapi.wait_for_node',
      error: { code: 'StepTimeout' },
    });
    const uuid = job.vm_uuid;
    expect(await vmapi().getVm({ uuid })).toMatchObject({ state: 'failed' });
    expect(nicsOf(uuid)).toEqual([]);
    expect(await desiredOf(uuid)).toBeUndefined();
    const error = await refusal(vmapi().startVm({ uuid, sync: true }));
    expect(error.body).toMatchObject({ code: 'JobFailed' });
  });

  it('tries again while a service it needs cannot be reached', async () => {
    neighbours.refuse({ call: 'POST /networks', status: 503, code: 'ServiceUnavailable' });
    const twice = neighbours.called('POST /networks', 2);
    const made = await vmapi().createVm(payload());
    await twice;
    neighbours.refuse(undefined);
    await succeeded(made);
  });

  it('lets others go on where an instance was killed', async () => {
    nodes.setAway(true);
    const extra = await stack.start('vmapi', (context) => setupVmapi(context, patience), {
      napi: [neighbours.url],
      cnapi: [neighbours.url],
    });
    // So many that the extra instance owns some of them.
    const made = await Promise.all(
      Array.from({ length: 8 }, () => vmapi().createVm(payload({ server_uuid: servers[0] }))),
    );
    const { broadcast } = first(instances).context;
    for (const { vm_uuid } of made) {
      const place = { bucket: desiredBucket.name, key: `vm/${vm_uuid}`, timeoutMs: 150_000 };
      await broadcast.waitFor(place, () => desiredOf(vm_uuid));
    }
    await extra.kill();
    nodes.setAway(false);
    for (const { vm_uuid } of made) nodes.report(vm_uuid, String(servers[0]), 'running');
    for (const answer of made) {
      await succeeded(answer);
      expect(nicsOf(answer.vm_uuid)).toHaveLength(1);
    }
  });

  it('adds and removes NICs', async () => {
    const { uuid, nics } = await create();
    const [net0] = nics as Obj[];
    await succeeded(await vmapi().addNics({ uuid, networks: [{ uuid: other.uuid, ip: '192.168.8.77' }] }));
    const more = await vmapi().getVm({ uuid });
    expect(more.nics).toMatchObject([
      { interface: 'net0', primary: true },
      { interface: 'net1', primary: false, ip: '192.168.8.77', network_uuid: other.uuid },
    ]);
    expect(await desiredOf(uuid)).toMatchObject({
      body: { nics: [{ vnet_id: 4711 }, { vnet_id: 4712, ip: '192.168.8.77/24' }] },
    });
    await succeeded(await vmapi().removeNics({ uuid, macs: [net0?.mac] }));
    expect(await vmapi().getVm({ uuid })).toMatchObject({ nics: [{ interface: 'net1', primary: true }] });
    expect(await desiredOf(uuid)).toMatchObject({ body: { nics: [{ vnet_id: 4712, primary: true }] } });
    expect(nicsOf(uuid)).toMatchObject([{ ip: '192.168.8.77' }]);
    const error = await refusal(vmapi().removeNics({ uuid, macs: [net0?.mac] }));
    expect(error).toMatchObject({ statusCode: 409, body: { code: 'ValidationFailed' } });
  });

  it('changes a VM’s own fields, and its node’s where it shows them', async () => {
    const { uuid } = await create();
    const alias = `renamed-${String(uuid).slice(0, 8)}`;
    await succeeded(await vmapi().updateVm({ uuid, payload: { alias, firewall_enabled: true, quota: 20 } }));
    expect(await vmapi().getVm({ uuid })).toMatchObject({ alias, firewall_enabled: true, quota: 20 });
    expect(await desiredOf(uuid)).toMatchObject({ body: { alias } });
    const taken = await refusal(vmapi().createVm(payload({ alias })));
    expect(taken.body).toMatchObject({
      code: 'ValidationFailed',
      errors: [{ field: 'alias', code: 'Duplicate', message: 'Already exists for this owner_uuid' }],
    });
  });

  it('keeps tags and metadata, each pair on its own', async () => {
    const { uuid } = await create({ tags: { a: 'x' } });
    const given = { uuid, metadata: { b: 1, c: true, d: 'text' } };
    for (const kind of ['tags', 'customer_metadata', 'internal_metadata']) {
      await succeeded(await vmapi().addMetadata(kind, given));
      expect(await vmapi().listMetadata(kind, { uuid })).toMatchObject(given.metadata);
      expect(await vmapi().getMetadata(kind, 'd', { uuid })).toBe('text');
      expect(await vmapi().getMetadata(kind, 'b', { uuid })).toBe(1);
      await succeeded(await vmapi().deleteMetadata(kind, { uuid }, 'b'));
      await succeeded(await vmapi().setMetadata(kind, { uuid, metadata: { e: 'only' } }));
      expect(await vmapi().listMetadata(kind, { uuid })).toEqual({ e: 'only' });
      await succeeded(await vmapi().deleteAllMetadata(kind, { uuid }));
      expect(await vmapi().listMetadata(kind, { uuid })).toEqual({});
      const error = await refusal(vmapi().getMetadata(kind, 'b', { uuid }));
      expect(error).toMatchObject({ statusCode: 404, body: { code: 'ResourceNotFound' } });
    }
  });

  it('sets exactly the tags that the last of two calls asked for, however fast they came', async () => {
    const { uuid } = await create();
    const one = await vmapi().addMetadata('tags', { uuid, metadata: { first: 'yes' } });
    const two = await vmapi().setMetadata('tags', { uuid, metadata: { second: 'yes' } });
    await succeeded(one);
    await succeeded(two);
    expect(await vmapi().listMetadata('tags', { uuid })).toEqual({ second: 'yes' });
  });

  it('lists by everything that Triton’s clients ask for', async () => {
    const mine = randomUUID();
    const tags = [{ role: 'web-1', n: 5 }, { role: 'db', up: true }, {}];
    const uuids: string[] = [];
    const key = `list${mine.slice(0, 8)}`;
    for (const [index, given] of tags.entries()) {
      const vm = await create({ alias: `${key}-${index}`, tags: given, ram: 64 * (index + 1) });
      uuids.push(String(vm.uuid));
    }
    const found = async (query: Obj) =>
      (await vmapi().listVms({ ...query, alias: key, limit: 10 }))
        .map((vm) => uuids.indexOf(String(vm.uuid)))
        .sort();
    expect(await found({})).toEqual([0, 1, 2]);
    expect(await found({ 'tag.role': 'web-1' })).toEqual([0]);
    expect(await found({ 'tag.role': '*' })).toEqual([0, 1]);
    expect(await found({ 'tag.n': '5' })).toEqual([0]);
    expect(await found({ 'tag.up': 'true' })).toEqual([1]);
    expect(await found({ 'tag.role': 'web' })).toEqual([]);
    expect(await found({ ram: 128 })).toEqual([1]);
    expect(await found({ state: 'active', owner_uuid: owner })).toEqual([0, 1, 2]);
    expect(await found({ state: 'destroyed' })).toEqual([]);
    expect(await found({ uuids: `${uuids[0]},${uuids[2]}` })).toEqual([0, 2]);
    expect(await found({ owner_uuid: randomUUID() })).toEqual([]);
    expect(await vmapi().countVms({ alias: key })).toBe(3);
    const all = await vmapi().listVms({ alias: key });
    expect(all.map((vm) => vm.uuid)).toEqual([...uuids].sort().reverse());
    const pages: unknown[] = [];
    let marker: string | undefined;
    for (;;) {
      const query = {
        alias: key,
        sort: 'alias.ASC',
        limit: 2,
        fields: 'uuid,alias',
        ...(marker ? { marker } : {}),
      };
      const page = await vmapi().listVms(query);
      pages.push(page.map((vm) => vm.alias));
      const last = page.at(-1);
      if (last === undefined) break;
      expect(Object.keys(last)).toEqual(['uuid', 'alias']);
      marker = JSON.stringify({ uuid: last.uuid, alias: last.alias });
    }
    expect(pages).toEqual([[`${key}-0`, `${key}-1`], [`${key}-2`], []]);
    const head = await request('HEAD', `/vms?alias=${key}`);
    expect(head.headers.get('x-joyent-resource-count')).toBe('3');
    const statuses = await request('GET', `/statuses?uuids=${uuids.join(',')}`);
    expect(statuses.body).toEqual(Object.fromEntries(uuids.map((uuid) => [uuid, 'running'])));
  });

  it('hears a VM’s own node only, news only, and in order', async () => {
    const vm = await create();
    const path = `/vms/${vm.uuid}`;
    const stored = async () => kv().get<Obj>('vmapi_vms', String(vm.uuid));
    const before = await stored();
    const now = Date.parse(String(before.value.reported));
    const report = (state: string, more: Obj = {}) =>
      request('PUT', path, { uuid: vm.uuid, state, server_uuid: vm.server_uuid, ...more });
    await report('stopped', { server_uuid: servers.find((server) => server !== vm.server_uuid) });
    await report('running', { last_modified: before.value.reported, zone_state: 'running' });
    await report('stopped', { last_modified: new Date(now - 5).toISOString() });
    await report('destroyed', { last_modified: new Date(now + 5).toISOString() });
    expect((await stored())._etag).toBe(before._etag);
    await report('stopped', {
      last_modified: new Date(now + 5).toISOString(),
      pid: 17,
      alias: 'not-a-node’s-to-say',
    });
    expect((await stored()).value).toMatchObject({ state: 'stopped', pid: 17, alias: null });
    expect((await request('PUT', `/vms/${randomUUID()}`, { state: 'running' })).status).toBe(404);
  });

  it('asks a node for a VM’s end until it says so, whenever that is, and only then takes back what it asked', async () => {
    const { uuid, server_uuid } = await create();
    nodes.setAway(true);
    const inVain = await endedInHaste(() => vmapi().deleteVm({ uuid }));
    expect((inVain.chain_results as Obj[]).at(-1)).toMatchObject({ error: { code: 'StepTimeout' } });
    expect(await desiredOf(uuid)).toMatchObject({ body: { state: 'destroyed' } });
    expect(nicsOf(uuid)).toHaveLength(1);
    // What goes does not come back.
    expect(await ended(await vmapi().startVm({ uuid }))).toMatchObject({ execution: 'failed' });
    expect(await desiredOf(uuid)).toMatchObject({ body: { state: 'destroyed' } });
    // The node is back, with a clock that was set back a little, and without its memory.
    const report = { uuid, server_uuid, zone_state: 'destroyed', last_modified: '2001-01-01T00:00:00Z' };
    await request('PUT', `/vms/${uuid}`, { ...report, state: 'destroyed' });
    nodes.setAway(false);
    const commits = commitsOf(uuid, 1);
    await succeeded(await vmapi().deleteVm({ uuid }));
    expect(await commits).toMatchObject([{ vm: { state: 'destroyed' }, desired: null }]);
    expect(nicsOf(uuid)).toEqual([]);
  });

  it('asks for the end also of a VM of which nothing is desired any more', async () => {
    const { uuid } = await create();
    nodes.setAway(true);
    const { broadcast } = first(instances).context;
    const gone = new Promise<void>((resolve) => {
      broadcast.subscribe({ buckets: [desiredBucket.name], onChange: ({ value }) => value ?? resolve() });
    });
    await kv().del(desiredBucket.name, `vm/${uuid}`);
    await gone;
    nodes.setAway(false);
    await succeeded(await vmapi().deleteVm({ uuid }));
    expect(await vmapi().getVm({ uuid })).toMatchObject({ state: 'destroyed' });
    expect(await desiredOf(uuid)).toBeUndefined();
  });

  it('turns the firewall on and off on the node at the moment that the VM says so', async () => {
    const { uuid } = await create();
    expect(await desiredOf(uuid)).toMatchObject({ body: { firewall_enabled: false } });
    const commits = commitsOf(uuid, 2);
    for (const firewall_enabled of [true, false]) {
      await succeeded(await vmapi().updateVm({ uuid, payload: { firewall_enabled } }));
    }
    expect(await commits).toMatchObject([
      { vm: { firewall_enabled: true }, desired: { firewall_enabled: true } },
      { vm: { firewall_enabled: false }, desired: { firewall_enabled: false } },
    ]);
  });

  it('takes a VM for gone that its node, telling of all, no longer has', async () => {
    const { uuid, server_uuid } = await create({ server_uuid: servers[1] });
    const keep = await create({ server_uuid: servers[1] });
    nodes.setAway(true);
    const gone = await vmapi().deleteVm({ uuid });
    await first(instances).context.broadcast.waitFor(
      { bucket: desiredBucket.name, key: `vm/${uuid}`, timeoutMs: 150_000 },
      async () => ((await desiredOf(uuid))?.body.state === 'destroyed' ? true : undefined),
    );
    const all = await request('PUT', `/vms?server_uuid=${server_uuid}`, { vms: {} });
    expect(all.status).toBe(200);
    nodes.setAway(false);
    await succeeded(gone);
    expect(await vmapi().getVm({ uuid: keep.uuid })).toMatchObject({
      state: 'running',
      zone_state: 'running',
    });
  });

  it('refuses bad input as Triton does, and writes nothing', async () => {
    const count = async () => (await kv().find('vmapi_jobs', '(uuid=*)', { limit: 1 })).count;
    const { uuid } = await create();
    const before = await count();
    const field = async (answer: Promise<{ status: number; body: Obj }>) => {
      const { status, body } = await answer;
      expect(status).toBe(409);
      expect(body.code).toBe('ValidationFailed');
      return (body.errors as Obj[]).map((error) => `${error.field} ${error.code}`);
    };
    const post = (body: unknown) => field(request('POST', '/vms', body));
    expect(await post({})).toEqual([
      'brand MissingParameter',
      'image_uuid MissingParameter',
      'networks MissingParameter',
      'owner_uuid MissingParameter',
      'ram MissingParameter',
    ]);
    expect(await post(payload({ owner_uuid: 'me', ram: 'much', brand: 'xen' }))).toEqual([
      'brand Invalid',
      'owner_uuid Invalid',
      'ram Invalid',
    ]);
    expect(await post(payload({ color: 'red' }))).toEqual(['color Invalid']);
    expect(await post(payload({ networks: [] }))).toEqual(['networks Invalid']);
    expect(await post(payload({ networks: [{ uuid: randomUUID() }] }))).toEqual(['networks Invalid']);
    expect(await post(payload({ tags: { a: { b: 1 } } }))).toEqual(['tags.a Invalid']);
    expect(await post(payload({ server_uuid: randomUUID() }))).toEqual(['server_uuid Invalid']);
    expect(await post(payload({ uuid }))).toEqual(['uuid Duplicate']);
    expect(await field(request('GET', '/vms?color=red'))).toEqual(['color Invalid']);
    expect(await field(request('GET', '/vms?fields=uuid,color'))).toEqual(['fields Invalid']);
    expect(await field(request('GET', '/vms?limit=2000'))).toEqual(['limit Invalid']);
    expect(await field(request('GET', '/vms?marker=%7B%7D'))).toEqual(['marker Invalid', 'marker Invalid']);
    expect(await field(request('GET', '/vms/nonsense'))).toEqual(['uuid Invalid']);
    expect(await field(request('POST', `/vms/${uuid}`, {}))).toEqual(['action MissingParameter']);
    expect(await field(request('POST', `/vms/${uuid}?action=explode`))).toEqual(['action Invalid']);
    expect(await field(request('POST', `/vms/${uuid}/tags`, {}))).toEqual(['tags Invalid']);
    expect(await field(request('POST', `/vms/${uuid}?action=kill`, { signal: 'SIGHUP' }))).toEqual([
      'signal Invalid',
    ]);
    const missing = await request('GET', `/vms/${uuid}?owner_uuid=${randomUUID()}`);
    expect(missing).toMatchObject({
      status: 404,
      body: { code: 'ResourceNotFound', message: 'VM not found' },
    });
    const broken = await fetch(`${url()}/vms`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"owner_uuid":',
    });
    expect(broken.status).toBe(400);
    expect(await count()).toBe(before);
  });

  it('answers /ping, /docs and the changefeed’s resources', async () => {
    expect(await vmapi().ping()).toMatchObject({ status: 'OK', healthy: true });
    expect((await request('GET', '/docs/json')).body.paths).toHaveProperty('/vms/{uuid}');
    expect((await request('GET', '/changefeeds')).body.vm).toMatchObject({ bootstrapRoute: '/vms' });
  });
});
