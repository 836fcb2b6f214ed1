import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type Desired, desiredBucket, desiredSchema } from '../../agents/contract/desired.ts';
import type { Instance } from '../../test/fixtures/stack.ts';
import { type Obj, startNapi, type TestNapi, zoneNic } from './testing/napi.ts';

// Everything here waits for PostgreSQL's disk.
vi.setConfig({ testTimeout: 180_000, hookTimeout: 240_000 });

let napi: TestNapi;
beforeAll(async () => {
  napi = await startNapi();
});
afterAll(() => napi?.close());

interface Network extends Obj {
  readonly uuid: string;
  readonly vnet_id: number;
}
interface Nic extends Obj {
  readonly mac: string;
  readonly ip: string;
}

const call = <T = Obj>(method: string, ...args: unknown[]) => napi.client().call<T>(method, ...args);
const refused = (method: string, ...args: unknown[]) => napi.client().refused(method, ...args);

function fabric(prefix: string, params: Obj = {}): Record<string, unknown> {
  return {
    name: `net ${prefix}`,
    subnet: `${prefix}.0/24`,
    provision_start_ip: `${prefix}.5`,
    provision_end_ip: `${prefix}.250`,
    ...params,
  };
}

async function ownerWithVlan(vlan: number): Promise<string> {
  const owner = randomUUID();
  await call('createFabricVLAN', owner, { name: 'a vlan', vlan_id: vlan });
  return owner;
}

describe('VLANs', () => {
  test('an owner’s share one vnet, however many instances make them at once', async () => {
    const owner = randomUUID();
    const made = await Promise.all(
      [2, 3, 4, 5].map((id) => call('createFabricVLAN', owner, { name: `vlan${id}`, vlan_id: id })),
    );
    expect(new Set(made.map((vlan) => vlan.vnet_id)).size).toBe(1);
    expect(await call('listFabricVLANs', owner, {})).toEqual(made);
    expect(await call('getFabricVLAN', owner, 3, {})).toEqual({
      name: 'vlan3',
      owner_uuid: owner,
      vlan_id: 3,
      vnet_id: made[0]?.vnet_id,
    });
    const described = { description: 'it is', fields: ['name', 'description'] };
    expect(await call('updateFabricVLAN', owner, 3, described)).toEqual({
      name: 'vlan3',
      description: 'it is',
    });
    await call('deleteFabricVLAN', owner, 3, {});
    expect(await refused('getFabricVLAN', owner, 3, {})).toEqual({
      status: 404,
      body: { code: 'ResourceNotFound', message: 'vlan not found' },
    });
  });

  test('an id is used once', async () => {
    const owner = await ownerWithVlan(2);
    expect(await refused('createFabricVLAN', owner, { name: 'again', vlan_id: 2 })).toEqual({
      status: 422,
      body: {
        code: 'InUse',
        message: 'VLAN ID is already in use',
        errors: [{ field: 'vlan_id', code: 'Duplicate', message: 'VLAN ID is already in use' }],
      },
    });
  });

  test.each([
    ['an id', { vlan_id: 4095 }, 'vlan_id', 'VLAN ID must be a number between 0 and 4094, and not 1'],
    ['a name', { vlan_id: 9, name: 7 }, 'name', 'must be a string'],
    ['fields', { vlan_id: 9, fields: ['foo'] }, 'fields', 'unknown field specified'],
  ])('wrong: %s', async (_what, params, field, message) => {
    const owner = randomUUID();
    expect((await refused('createFabricVLAN', owner, params)).body.errors).toMatchObject([
      { field, code: 'InvalidParameter', message },
    ]);
    expect(await call('listFabricVLANs', owner, {})).toEqual([]);
  });
});

describe('networks', () => {
  test('have what a fabric gives them', async () => {
    const owner = await ownerWithVlan(2);
    const made = await call<Network>(
      'createFabricNetwork',
      owner,
      2,
      fabric('192.168.1', { internet_nat: true, mtu: 8000 }),
    );
    expect(made).toEqual({
      ...fabric('192.168.1'),
      uuid: expect.any(String),
      fabric: true,
      family: 'ipv4',
      vnet_id: expect.any(Number),
      owner_uuid: owner,
      vlan_id: 2,
      nic_tag: 'sdc_overlay',
      mtu: 1400,
      netmask: '255.255.255.0',
      resolvers: [],
      internet_nat: true,
      gateway: '192.168.1.5',
      gateway_provisioned: false,
    });
    const { owner_uuid, ...rest } = made;
    expect(await call('getNetwork', made.uuid)).toEqual({ ...rest, owner_uuids: [owner] });
    expect(await call('getFabricNetwork', owner, 2, made.uuid, {})).toEqual(made);
    expect(await call('listFabricNetworks', owner, 2, {})).toEqual([made]);
    expect(await refused('getFabricNetwork', randomUUID(), 2, made.uuid, {})).toMatchObject({ status: 404 });
    const found = await call<Obj[]>('listNetworks', { name: made.name, provisionable_by: owner });
    expect(found.map(({ uuid }) => uuid)).toEqual([made.uuid]);
    expect(await call('listNetworks', { name: made.name })).toEqual([]);
    const gateway = { gateway: '192.168.1.9' };
    expect((await refused('updateFabricNetwork', owner, 2, made.uuid, gateway)).body.errors).toEqual([
      {
        field: 'gateway',
        code: 'InvalidParameter',
        message: 'Network updates for this field are not supported on fabrics',
      },
    ]);
    const renamed = await call('updateFabricNetwork', owner, 2, made.uuid, { name: 'other' });
    expect(renamed).toEqual({ ...made, name: 'other' });
    const nic = zoneNic({ owner_uuid: owner, cn_uuid: randomUUID(), ip: '192.168.1.5' });
    const { mac } = await call<Nic>('provisionNic', made.uuid, nic);
    expect(await call('getNetwork', made.uuid)).toMatchObject({ gateway_provisioned: true });
    await call('deleteNic', mac);
    expect(await call('getNetwork', made.uuid)).toMatchObject({ gateway_provisioned: false });
  });

  test('an owner’s do not overlap, also when they are made at once; other owners’ may', async () => {
    const owners = await Promise.all([ownerWithVlan(2), ownerWithVlan(2)]);
    for (let round = 0; round < 4; round++) {
      const answers = await Promise.all(
        owners.flatMap((owner) =>
          [1, 2, 3].map((n) =>
            napi.request(
              'POST',
              `/fabrics/${owner}/vlans/2/networks`,
              fabric(`192.168.${round}`, { name: `${round} ${n}` }),
            ),
          ),
        ),
      );
      expect(answers.map(({ status }) => status).sort()).toEqual([200, 200, 422, 422, 422, 422]);
    }
    for (const owner of owners) {
      const networks = await call<Obj[]>('listFabricNetworks', owner, 2, {});
      expect(networks.map(({ subnet }) => subnet)).toEqual(
        [0, 1, 2, 3].map((round) => `192.168.${round}.0/24`),
      );
    }
    const inside = { name: 'inside', ...fabric('192.168.2', { subnet: '192.168.0.0/16' }) };
    const refusal = await refused('createFabricNetwork', owners[0], 2, inside);
    expect(refusal.body.errors?.map((error) => ('code' in error ? error.code : ''))).toEqual(
      Array(4).fill('UsedBy'),
    );
  });

  test('a network and the deletion of its VLAN do not pass each other', async () => {
    for (let round = 0; round < 5; round++) {
      const owner = await ownerWithVlan(2);
      const [made, deleted] = await Promise.allSettled([
        call('createFabricNetwork', owner, 2, fabric('10.1.1')),
        call('deleteFabricVLAN', owner, 2, {}),
      ]);
      expect([made.status, deleted.status].sort()).toEqual(['fulfilled', 'rejected']);
    }
  });

  test.each([
    ['public', fabric('192.0.2'), 'subnet', 'subnet must be within private ranges'],
    [
      'IPv6',
      fabric('x', {
        subnet: 'fd00::/64',
        provision_start_ip: 'fd00::5',
        provision_end_ip: 'fd00::9',
      }),
      'subnet',
      'Fabric networks must be IPv4',
    ],
  ])('%s addresses are refused', async (_what, params, field, message) => {
    const owner = await ownerWithVlan(2);
    expect((await refused('createFabricNetwork', owner, 2, params)).body.errors).toEqual([
      { field, code: 'InvalidParameter', message },
    ]);
  });

  test('keep their VLAN, and are kept by their NICs', async () => {
    const owner = await ownerWithVlan(2);
    const { uuid } = await call<Network>('createFabricNetwork', owner, 2, fabric('10.2.2'));
    expect(await refused('deleteFabricVLAN', owner, 2, {})).toEqual({
      status: 422,
      body: {
        code: 'InUse',
        message: 'VLAN must have no networks',
        errors: [{ type: 'network', id: uuid, code: 'UsedBy', message: `In use by network "${uuid}"` }],
      },
    });
    expect((await refused('provisionNic', uuid, zoneNic({ owner_uuid: owner }))).body).toMatchObject({
      message: 'Missing parameters',
      errors: [{ field: 'cn_uuid', code: 'MissingParameter' }],
    });
  });
});

describe('what nodes are told', () => {
  const firstOf = () => napi.instances[0] as Instance;

  /** Waits for the overlay of a network to become what `holds` wants. */
  function overlay(network: string, holds: (desired: Desired | undefined) => boolean) {
    const key = `overlay/${network}`;
    const { broadcast, kv } = firstOf().context;
    return broadcast.waitFor({ bucket: desiredBucket.name, key, timeoutMs: 150_000 }, async () => {
      const object = await kv.tryGet<unknown>(desiredBucket.name, key);
      const desired = object === undefined ? undefined : desiredSchema.parse(object.value);
      return holds(desired) ? { desired } : undefined;
    });
  }

  async function underlay(server: string, ip: string): Promise<Nic> {
    return call<Nic>('createNic', `02:00:${ip.split('.').slice(2).map(hex).join(':')}:00:01`, {
      owner_uuid: randomUUID(),
      belongs_to_type: 'server',
      belongs_to_uuid: server,
      ip,
      nic_tag: 'underlay',
      vlan_id: 0,
      underlay: true,
      nic_tags_provided: ['underlay'],
    });
  }
  const hex = (n: string) => Number(n).toString(16).padStart(2, '0');

  test('where each address is; also when the underlay comes later, moves, and when NICs go', async () => {
    const owner = await ownerWithVlan(2);
    const network = await call<Network>('createFabricNetwork', owner, 2, fabric('10.3.3'));
    const [near, far] = [randomUUID(), randomUUID()];
    await underlay(near, '10.99.1.1');
    const nic = (server: string) =>
      call<Nic>('provisionNic', network.uuid, zoneNic({ owner_uuid: owner, cn_uuid: server }));
    const [one, two] = await Promise.all([nic(near), nic(far)]);
    expect(one.nic_tag).toBe(`sdc_overlay/${network.vnet_id}`);
    const count = (n: number) => (desired: Desired | undefined) =>
      desired?.kind === 'overlay' && desired.body.mappings.length === n;

    const alone = await overlay(network.uuid, count(1));
    expect(alone.desired).toMatchObject({
      owner_uuid: owner,
      span: [near],
      body: {
        network_uuid: network.uuid,
        vnet_id: network.vnet_id,
        vlan_id: 2,
        mtu: 1400,
        subnet: '10.3.3.0/24',
        mappings: [{ mac: one.mac, ip: one.ip, server_uuid: near, underlay_ip: '10.99.1.1' }],
      },
    });
    const farNic = await underlay(far, '10.99.1.2');
    const both = await overlay(network.uuid, count(2));
    expect(both.desired?.span).toEqual([near, far].sort());
    await call('updateNic', farNic.mac, { ip: '10.99.1.3' });
    await overlay(
      network.uuid,
      (desired) =>
        desired?.kind === 'overlay' &&
        desired.body.mappings.some(({ mac, underlay_ip }) => mac === two.mac && underlay_ip === '10.99.1.3'),
    );
    // A machine that moves to another node.
    await call('updateNic', two.mac, { cn_uuid: near });
    await overlay(network.uuid, (desired) => desired?.span.join() === near);
    await call('deleteNic', one.mac);
    await call('deleteNic', two.mac);
    await overlay(network.uuid, (desired) => desired === undefined);
  });
});
