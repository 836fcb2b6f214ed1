import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
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
}
const invalid = (field: string, message: string, more: Obj = {}) => ({
  field,
  code: 'InvalidParameter',
  message,
  ...more,
});
const missing = (field: string) => ({ field, code: 'MissingParameter', message: 'Missing parameter' });
const refusal = (errors: readonly object[], message = 'Invalid parameters') => ({
  status: 422,
  body: { code: 'InvalidParameters', message, errors },
});

describe('NIC tags', () => {
  test('are made once, found, renamed and deleted', async () => {
    const tag = await napi.client().call<Obj>('createNicTag', 'first', { mtu: 9000 });
    expect(tag).toEqual({ name: 'first', mtu: 9000, uuid: expect.any(String) });
    expect(await napi.client().call('getNicTag', 'first', {})).toEqual(tag);
    const again = [{ field: 'name', code: 'Duplicate', message: 'Already exists' }];
    expect(await napi.client().refused('createNicTag', 'first', {})).toEqual(refusal(again));
    const renamed = await napi.client().call('updateNicTag', 'first', { name: 'second' });
    expect(renamed).toEqual({ ...tag, name: 'second' });
    expect(await napi.client().refused('getNicTag', 'first', {})).toEqual({
      status: 404,
      body: { code: 'ResourceNotFound', message: 'nic tag not found' },
    });
    await napi.client().call('deleteNicTag', 'second', {});
    expect((await napi.client().call<Obj[]>('listNicTags', {})).map(({ name }) => name)).not.toContain(
      'second',
    );
  });

  const words = 'must only contain numbers, letters and underscores';
  test.each([
    ['no name', {}, [missing('name')], 'Missing parameters'],
    ['a name with spaces', { name: 'has spaces' }, [invalid('name', words)]],
    ['a long name', { name: 'b'.repeat(32) }, [invalid('name', 'must not be longer than 31 characters')]],
    [
      'an MTU that is too small',
      { name: 'x', mtu: 1490 },
      [invalid('mtu', 'mtu must be a number between 1500 and 9000')],
    ],
    [
      'an MTU as text',
      { name: 'x', mtu: '9000' },
      [invalid('mtu', 'mtu must be a number between 1500 and 9000')],
    ],
  ])('%s is refused', async (_what, params, errors, message = 'Invalid parameters') => {
    const answer = await napi.request('POST', '/nic_tags', params);
    expect(answer).toMatchObject(refusal(errors, message));
  });

  test('one that a network is on is neither deleted nor renamed, nor made too small for it', async () => {
    await napi.client().call('createNicTag', 'used', { mtu: 9000 });
    const network = await napi.network(50, { nic_tag: 'used', mtu: 8000 });
    const used = {
      field: 'nic_tag',
      type: 'network',
      id: network.uuid,
      code: 'UsedBy',
      message: `In use by network "${network.uuid}"`,
    };
    expect(await napi.client().refused('deleteNicTag', 'used', {})).toEqual(refusal([used]));
    expect(await napi.client().refused('updateNicTag', 'used', { name: 'other' })).toEqual(refusal([used]));
    expect(await napi.client().refused('updateNicTag', 'used', { mtu: 7000 })).toEqual(
      refusal([invalid('mtu', 'nic_tag mtu must be greater than its networks', { uuid: network.uuid })]),
    );
    await napi.client().call('deleteNetwork', network.uuid, {});
    await napi.client().call('deleteNicTag', 'used', {});
  });

  test('a network and the deletion of its NIC tag do not pass each other', async () => {
    for (let round = 0; round < 5; round++) {
      await napi.client().call('createNicTag', `race${round}`, {});
      const [network, deleted] = await Promise.allSettled([
        napi.network(50, { nic_tag: `race${round}` }),
        napi.client().answer('deleteNicTag', `race${round}`, {}),
      ]);
      expect([network.status, deleted.status].sort()).toEqual(['fulfilled', 'rejected']);
    }
  });
});

describe('networks', () => {
  test('have Triton’s fields, and set their gateway, resolvers and broadcast aside', async () => {
    const params = {
      name: 'whole',
      nic_tag: 'admin',
      vlan_id: 0,
      subnet: '10.77.1.0/24',
      provision_start_ip: '10.77.1.10',
      provision_end_ip: '10.77.1.250',
      gateway: '10.77.1.1',
      resolvers: ['10.77.1.2', '8.8.8.8'],
      routes: { '10.78.0.0/16': '10.77.1.3' },
      description: 'all of it',
      owner_uuids: [randomUUID(), randomUUID()].sort(),
    };
    const made = await napi.client().answer<Network>('createNetwork', params);
    expect(made.body).toEqual({
      ...params,
      uuid: expect.any(String),
      family: 'ipv4',
      mtu: 1500,
      netmask: '255.255.255.0',
    });
    const read = await napi.client().answer('getNetwork', made.body.uuid);
    expect(read.body).toEqual(made.body);
    expect(read.headers.etag).toBe(made.headers.etag);
    const ips = await napi.client().call<Obj[]>('listIPs', made.body.uuid, {});
    expect(ips.map(({ ip, reserved, belongs_to_type }) => [ip, reserved, belongs_to_type])).toEqual([
      ['10.77.1.1', true, 'other'],
      ['10.77.1.2', true, 'other'],
      ['10.77.1.255', true, 'other'],
    ]);
    const nic = zoneNic({ ip: '10.77.1.2', check_owner: false });
    await napi.client().call('provisionNic', made.body.uuid, nic);
    expect(await napi.client().call('getIP', made.body.uuid, '10.77.1.2', {})).toMatchObject({
      belongs_to_type: 'zone',
      reserved: true,
    });
    const own = { provisionable_by: randomUUID() };
    expect(await napi.client().refused('getNetwork', made.body.uuid, { params: own })).toEqual({
      status: 403,
      body: { code: 'NotAuthorized', message: 'owner cannot provision on network' },
    });
  });

  test('may overlap where their addresses are private, and not elsewhere, also when they are made at once', async () => {
    const network = (name: string, prefix: string) => ({
      name,
      nic_tag: 'admin',
      vlan_id: 0,
      subnet: `${prefix}.0/24`,
      provision_start_ip: `${prefix}.1`,
      provision_end_ip: `${prefix}.9`,
    });
    await napi.client().call('createNetwork', network('private1', '10.50.0'));
    await napi.client().call('createNetwork', network('private2', '10.50.0'));
    for (let round = 0; round < 5; round++) {
      const made = await Promise.all(
        ['a', 'b', 'c', 'd'].map((name) =>
          napi.request('POST', '/networks', network(`${name}${round}`, `198.51.${round}`)),
        ),
      );
      expect(made.map(({ status }) => status).sort()).toEqual([200, 422, 422, 422]);
      const uuid = made.find(({ status }) => status === 200)?.body.uuid;
      expect(made.find(({ status }) => status === 422)?.body.errors).toEqual([
        {
          field: 'subnet',
          type: 'network',
          id: uuid,
          code: 'UsedBy',
          message: 'subnet overlaps with another network',
        },
      ]);
    }
  });

  test('a repeat of the request that made one is answered with it; its name is its own', async () => {
    const body = {
      name: 'mine',
      nic_tag: 'admin',
      vlan_id: 0,
      subnet: '203.0.113.0/24',
      provision_start_ip: '203.0.113.1',
      provision_end_ip: '203.0.113.9',
    };
    const key = { 'idempotency-key': randomUUID() };
    const [one, two] = await Promise.all([1, 2].map(() => napi.request('POST', '/networks', body, key)));
    expect(one?.body).toEqual(two?.body);
    expect(
      await napi.request('POST', '/networks', {
        ...body,
        subnet: '10.1.0.0/24',
        provision_start_ip: '10.1.0.1',
        provision_end_ip: '10.1.0.2',
      }),
    ).toMatchObject(
      refusal(
        [{ field: 'name', code: 'Duplicate', message: 'Already exists' }],
        'name is in use by another network',
      ),
    );
  });

  const good = {
    name: 'good',
    nic_tag: 'admin',
    vlan_id: 0,
    subnet: '10.60.1.0/24',
    provision_start_ip: '10.60.1.5',
    provision_end_ip: '10.60.1.250',
  };
  test.each<[string, Obj, readonly object[], string?]>([
    ['nothing', {}, [missing('name'), missing('nic_tag'), missing('vlan_id')], 'Missing parameters'],
    [
      'no addresses',
      { name: 'a', nic_tag: 'admin', vlan_id: 0 },
      [missing('provision_end_ip'), missing('provision_start_ip'), missing('subnet')],
      'Missing parameters',
    ],
    [
      'a NIC tag that is not there',
      { ...good, nic_tag: 'none' },
      [invalid('nic_tag', 'nic tag does not exist')],
    ],
    ['host bits', { ...good, subnet: '10.60.1.1/24' }, [invalid('subnet', 'invalid CIDR format')]],
    ['no prefix', { ...good, subnet: '10.60.1.0' }, [invalid('subnet', 'Subnet must be in CIDR form')]],
    ['a long prefix', { ...good, subnet: '10.60.1.0/33' }, [invalid('subnet', 'Subnet bits invalid')]],
    ['no address', { ...good, subnet: 'asdf/24' }, [invalid('subnet', 'Subnet IP invalid')]],
    [
      'a gateway elsewhere',
      { ...good, gateway: '10.60.2.1' },
      [invalid('gateway', 'gateway cannot be outside subnet')],
    ],
    [
      'a range elsewhere',
      { ...good, provision_start_ip: '10.60.0.255', provision_end_ip: '10.60.1.255' },
      [
        invalid('provision_end_ip', 'provision_end_ip cannot be the broadcast address'),
        invalid('provision_start_ip', 'provision_start_ip cannot be outside subnet'),
      ],
    ],
    [
      'a range backwards',
      { ...good, provision_start_ip: '10.60.1.9', provision_end_ip: '10.60.1.8' },
      [
        invalid('provision_end_ip', 'provision_start_ip must be before provision_end_ip'),
        invalid('provision_start_ip', 'provision_start_ip must be before provision_end_ip'),
      ],
    ],
    [
      'resolvers',
      { ...good, resolvers: ['1.2.3.4', true] },
      [invalid('resolvers', 'invalid IP', { invalid: [true] })],
    ],
    ['no list', { ...good, resolvers: 5 }, [invalid('resolvers', 'must be an array of strings')]],
    [
      'routes',
      { ...good, routes: { asdf: 'asdf', foo: 'bar' } },
      [invalid('routes', 'invalid routes', { invalid: ['asdf', 'asdf', 'foo', 'bar'] })],
    ],
    [
      'a route',
      { ...good, routes: { '10.2.0.0/7': '10.60.1.2' } },
      [invalid('routes', 'invalid route', { invalid: ['10.2.0.0/7'] })],
    ],
    [
      'an MTU above the tag’s',
      { ...good, mtu: 1600 },
      [invalid('mtu', 'network mtu must be under nic_tag mtu')],
    ],
    ['an MTU', { ...good, mtu: 400 }, [invalid('mtu', 'mtu must be a number between 576 and 9000')]],
    [
      'another family',
      { ...good, gateway: 'fd00::1', resolvers: ['fd00::2'], provision_start_ip: 'fd00::3' },
      [
        invalid('gateway', 'gateway should match subnet type (ipv4)'),
        invalid('provision_start_ip', 'provision_start_ip and subnet must both be IPv4 or IPv6 addresses'),
        invalid('resolvers', 'resolvers should match subnet type (ipv4)', { invalid: ['fd00::2'] }),
      ],
    ],
    [
      'an unknown field',
      { ...good, colour: 1 },
      [{ field: ['colour'], code: 'UnknownParameters', message: 'Unknown parameters: colour' }],
    ],
  ])('wrong: %s', async (_what, params, errors, message = 'Invalid parameters') => {
    expect(await napi.request('POST', '/networks', params)).toMatchObject(refusal(errors, message));
    expect(await napi.client().call('listNetworks', { name: 'good' })).toEqual([]);
  });

  test('IPv6 networks have no netmask', async () => {
    const network = await napi.client().call<Network>('createNetwork', {
      name: 'six',
      nic_tag: 'admin',
      vlan_id: 0,
      subnet: 'fd00:1::/64',
      provision_start_ip: 'fd00:1::1',
      provision_end_ip: 'fd00:1::ffff',
      gateway: null,
    });
    expect(network).toMatchObject({ family: 'ipv6', subnet: 'fd00:1::/64' });
    expect(network).not.toHaveProperty('netmask');
    expect((await napi.client().refused('provisionNic', network.uuid, zoneNic())).body.errors).toEqual([
      invalid('network_uuid', 'The network UUID is valid, but its address family must be IPv4'),
    ]);
  });

  test('updates', async () => {
    const network = await napi.network(50);
    const at = (n: number) => network.subnet.replace('.0/24', `.${n}`);
    const { etag } = (await napi.client().answer('getNetwork', network.uuid)).headers;
    const changes = { gateway: at(1), resolvers: ['1.1.1.1'], description: 'new', provision_end_ip: at(99) };
    const updated = await napi.client().answer('updateNetwork', network.uuid, changes);
    expect(updated.body).toEqual({ ...network, ...changes });
    expect(updated.headers.etag).not.toBe(etag);
    expect(await napi.client().call('getIP', network.uuid, at(1), {})).toMatchObject({ reserved: true });
    const stale = { headers: { 'If-Match': etag } };
    expect(await napi.client().refused('updateNetwork', network.uuid, { name: 'x' }, stale)).toMatchObject({
      status: 412,
      body: { code: 'PreconditionFailed' },
    });
    const immutable = { subnet: '10.200.0.0/24', vlan_id: 7, nic_tag: 'underlay', internet_nat: false };
    const message = 'Network updates for this field are not supported';
    expect(await napi.client().refused('updateNetwork', network.uuid, immutable)).toEqual(
      refusal(['internet_nat', 'nic_tag', 'subnet', 'vlan_id'].map((field) => invalid(field, message))),
    );
    const outside = { provision_end_ip: '10.1.1.1' };
    expect((await napi.client().refused('updateNetwork', network.uuid, outside)).body.errors).toEqual([
      invalid('provision_end_ip', 'provision_end_ip cannot be outside subnet'),
    ]);
  });

  test('one that a NIC is on is not deleted', async () => {
    const network = await napi.network(50);
    const nic = await napi.client().call<{ mac: string }>('provisionNic', network.uuid, zoneNic());
    expect(await napi.client().refused('deleteNetwork', network.uuid, {})).toEqual({
      status: 422,
      body: {
        code: 'InUse',
        message: 'network must have no NICs provisioned',
        errors: [{ type: 'nic', id: nic.mac, code: 'UsedBy', message: `In use by nic "${nic.mac}"` }],
      },
    });
    await napi.client().call('deleteNic', nic.mac);
    await napi.client().call('deleteNetwork', network.uuid, {});
    expect(await napi.client().refused('getNetwork', network.uuid)).toEqual({
      status: 404,
      body: { code: 'ResourceNotFound', message: 'network not found' },
    });
  });

  test('a NIC and the deletion of its network do not pass each other', async () => {
    for (let round = 0; round < 6; round++) {
      const { uuid } = await napi.network(50);
      const [made, deleted] = await Promise.all([
        napi.request('POST', `/networks/${uuid}/nics`, zoneNic()),
        napi.request('DELETE', `/networks/${uuid}`),
      ]);
      const nics = await napi.client().call<Obj[]>('listNics', { network_uuid: uuid });
      const network = await napi.request('GET', `/networks/${uuid}`);
      if (deleted.status === 204) {
        expect([made.status, network.status, nics.length]).toEqual([422, 404, 0]);
      } else {
        expect([deleted.body.code, network.status]).toEqual(['InUse', 200]);
        expect(nics).toHaveLength(made.status === 200 ? 1 : 0);
      }
    }
  });

  test('filters, fields and pages of a list', async () => {
    const owner = randomUUID();
    const made: Network[] = [];
    for (const name of ['la', 'lb', 'lc'])
      made.push(
        await napi.network(50, { name, vlan_id: 4000, ...(name === 'lb' ? { owner_uuids: [owner] } : {}) }),
      );
    const names = async (query: Obj) =>
      (await napi.client().call<Obj[]>('listNetworks', query)).map(({ name }) => name);
    expect(await names({ vlan_id: 4000 })).toEqual(['la', 'lb', 'lc']);
    expect(await names({ vlan_id: 4000, offset: 1, limit: 1 })).toEqual(['lb']);
    expect(await names({ owner_uuid: owner })).toEqual(['lb']);
    expect(await names({ vlan_id: 4000, provisionable_by: owner })).toEqual(['la', 'lb', 'lc']);
    expect(await names({ vlan_id: 4000, provisionable_by: randomUUID() })).toEqual(['la', 'lc']);
    expect(await names({ name: ['lc', 'la', 'nothing'] })).toEqual(['la', 'lc']);
    expect(await names({ name: '*' })).toEqual([]);
    expect(await names({ uuid: `${made[0]?.uuid.slice(0, 13)}*` })).toEqual(['la']);
    expect(await napi.client().call('listNetworks', { name: 'la', fields: ['name', 'vlan_id'] })).toEqual([
      { name: 'la', vlan_id: 4000 },
    ]);
    expect((await napi.client().refused('listNetworks', { vlan_id: 'x', foo: 1 })).body.errors).toHaveLength(
      2,
    );
  });
});

describe('addresses', () => {
  test('are reserved, given, unassigned and freed', async () => {
    const network = await napi.network(50);
    const ip = network.subnet.replace('.0/24', '.20');
    const free = { ip, network_uuid: network.uuid, reserved: false, free: true };
    expect(await napi.client().call('getIP', network.uuid, ip, {})).toEqual(free);
    const user = { owner_uuid: randomUUID(), belongs_to_uuid: randomUUID(), belongs_to_type: 'zone' };
    const first = { headers: { 'If-Match': '""' } };
    const given = await napi
      .client()
      .answer('updateIP', network.uuid, ip, { ...user, reserved: true }, first);
    expect(given.body).toEqual({ ...free, free: false, reserved: true, ...user });
    const again = { headers: { 'If-Match': '""' } };
    expect(
      await napi.client().refused('updateIP', network.uuid, ip, { reserved: false }, again),
    ).toMatchObject({
      status: 412,
      body: { message: `if-match '""' didn't match etag '${given.headers.etag}'` },
    });
    const both = { free: true, unassign: true };
    expect(await napi.client().refused('updateIP', network.uuid, ip, both)).toEqual(
      refusal([invalid('unassign', 'free and unassign cannot both be set to "true"')]),
    );
    expect(await napi.client().call('updateIP', network.uuid, ip, { unassign: true })).toEqual({
      ...free,
      free: false,
      reserved: true,
      owner_uuid: user.owner_uuid,
    });
    expect(await napi.client().call('updateIP', network.uuid, ip, { free: true })).toEqual(free);
    expect(
      await napi.client().refused('updateIP', network.uuid, ip, { belongs_to_uuid: randomUUID() }),
    ).toEqual(refusal([missing('belongs_to_type'), missing('owner_uuid')], 'Missing parameters'));
  });

  test.each([
    ['10.1', 'Invalid IP address'],
    ['fd00::1', 'IP and subnet are of different address families'],
    ['192.0.2.1', 'IP is not in subnet'],
  ])('%s: %s', async (ip, message) => {
    const network = await napi.network(50);
    expect(await napi.client().refused('getIP', network.uuid, ip, {})).toEqual({
      status: 404,
      body: { code: 'ResourceNotFound', message },
    });
  });

  test('are searched in all networks', async () => {
    const at = (name: string) =>
      napi.network(50, {
        name,
        subnet: '10.66.0.0/24',
        provision_start_ip: '10.66.0.5',
        provision_end_ip: '10.66.0.9',
      });
    const [one, two] = await Promise.all([at('search1'), at('search2')]);
    const nic = zoneNic({ ip: '10.66.0.7' });
    await napi.client().call('provisionNic', one.uuid, nic);
    const found = await napi.client().call<Obj[]>('searchIPs', '10.66.0.7', {});
    const byNetwork = new Map(found.map((each) => [each.network_uuid, each.free]));
    expect(byNetwork).toEqual(
      new Map([
        [one.uuid, false],
        [two.uuid, true],
      ]),
    );
    const own = await napi.request('GET', `/search/ips?ip=10.66.0.7&belongs_to_uuid=${nic.belongs_to_uuid}`);
    expect(own.body.map((each: Obj) => each.network_uuid)).toEqual([one.uuid]);
    expect(await napi.client().refused('searchIPs', '1.2.3.4', {})).toEqual({
      status: 404,
      body: { code: 'ResourceNotFound', message: 'No networks found matching search criteria' },
    });
    expect(await napi.client().refused('searchIPs', 'asdf', {})).toEqual(
      refusal([invalid('ip', 'invalid IP address')]),
    );
  });
});

test('the OpenAPI document describes every route', async () => {
  const { status, body } = await napi.request('GET', '/docs/json');
  expect(status).toBe(200);
  expect(Object.keys(body.paths)).toEqual(
    expect.arrayContaining([
      '/networks/{network_uuid}/nics',
      '/nics/{mac}',
      '/fabrics/{owner_uuid}/vlans/{vlan_id}/networks',
    ]),
  );
});
