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

interface Nic extends Obj {
  readonly mac: string;
  readonly ip: string;
}
const provision = (network: string, params: Obj = {}) =>
  napi.client().call<Nic>('provisionNic', network, zoneNic(params));
const last = (ip: string) => Number(ip.split('.').at(-1));

describe('provisioning', () => {
  const atOnce = '100 NICs at once on two instances: each its own address and MAC, the lowest addresses';
  test(atOnce, { timeout: 240_000 }, async () => {
    const network = await napi.network(200);
    const nics = await Promise.all(Array.from({ length: 100 }, () => provision(network.uuid)));
    expect(new Set(nics.map((nic) => nic.mac)).size).toBe(100);
    expect(nics.map((nic) => last(nic.ip)).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 100 }, (_, i) => 5 + i),
    );
    const listed = await napi.client().call<Nic[]>('listNics', { network_uuid: network.uuid });
    expect(listed.map((nic) => nic.ip).sort()).toEqual(nics.map((nic) => nic.ip).sort());
  });

  test('a range that is used up is SubnetFull for all but one of those who race for the last address', async () => {
    const network = await napi.network(8);
    for (const expected of [5, 6, 7]) expect(last((await provision(network.uuid)).ip)).toBe(expected);
    const answers = await Promise.all(
      Array.from({ length: 6 }, () => napi.request('POST', `/networks/${network.uuid}/nics`, zoneNic())),
    );
    expect(answers.map((answer) => answer.status).sort()).toEqual([200, 507, 507, 507, 507, 507]);
    expect(answers.find((answer) => answer.status === 507)?.body).toEqual({
      code: 'SubnetFull',
      message: 'no more free IPs',
      network_uuid: network.uuid,
    });
  });

  test('freed addresses come again once all were used, the longest freed first', async () => {
    const network = await napi.network(8);
    const nics = [];
    for (let i = 0; i < 3; i++) nics.push(await provision(network.uuid));
    const [a, b, c] = nics as [Nic, Nic, Nic];
    await napi.client().call('deleteNic', b.mac);
    expect(await napi.client().call('getIP', network.uuid, b.ip, {})).toEqual({
      ip: b.ip,
      network_uuid: network.uuid,
      reserved: false,
      free: true,
    });
    await napi.client().call('deleteNic', c.mac);
    await napi.client().call('deleteNic', a.mac);
    const again = [];
    for (let i = 0; i < 4; i++) again.push(last((await provision(network.uuid)).ip));
    expect(again).toEqual([8, last(b.ip), last(c.ip), last(a.ip)]);
  });

  test('a lower start of the range is seen by every instance', async () => {
    const network = await napi.network(20);
    for (let i = 0; i < 4; i++) await provision(network.uuid);
    const start = network.subnet.replace('.0/24', '.2');
    await napi.client().call('updateNetwork', network.uuid, { provision_start_ip: start });
    const nics = await Promise.all([1, 2, 3].map(() => provision(network.uuid)));
    expect(nics.map((nic) => last(nic.ip)).sort()).toEqual([2, 3, 4]);
  });

  test('a repeat with the same idempotency-key is answered with the same NIC, also while the first is under way', async () => {
    const network = await napi.network(50);
    const params = zoneNic();
    const key = { 'idempotency-key': randomUUID() };
    const path = `/networks/${network.uuid}/nics`;
    const answers = await Promise.all([1, 2, 3, 4].map(() => napi.request('POST', path, params, key)));
    answers.push(await napi.request('POST', path, params, key));
    for (const answer of answers) expect(answer.status).toBe(200);
    expect(new Set(answers.map((answer) => answer.body.mac)).size).toBe(1);
    expect(await napi.client().call('listNics', { network_uuid: network.uuid })).toHaveLength(1);
    const other = await napi.request('POST', path, params, { 'idempotency-key': randomUUID() });
    expect(other.body.mac).not.toBe(answers[0]?.body.mac);
  });

  test('the NIC has what its network has, in Triton’s fields', async () => {
    const network = await napi.network(50, {
      resolvers: ['8.8.8.8'],
      routes: { '10.9.0.0/16': '10.100.0.3' },
      vlan_id: 46,
    });
    const params = zoneNic({ primary: true, allow_ip_spoofing: true, allow_mac_spoofing: false });
    const nic = await napi.client().answer<Nic>('provisionNic', network.uuid, params);
    const { created_timestamp, modified_timestamp, mac, ...rest } = nic.body;
    expect(rest).toEqual({
      belongs_to_type: 'zone',
      belongs_to_uuid: params.belongs_to_uuid,
      owner_uuid: params.owner_uuid,
      primary: true,
      state: 'provisioning',
      ip: network.subnet.replace('.0/24', '.5'),
      network_uuid: network.uuid,
      netmask: '255.255.255.0',
      nic_tag: 'admin',
      vlan_id: 46,
      mtu: 1500,
      resolvers: ['8.8.8.8'],
      routes: { '10.9.0.0/16': '10.100.0.3' },
      allow_ip_spoofing: true,
    });
    expect(mac).toMatch(/^90:b8:d0(:[0-9a-f]{2}){3}$/);
    expect(created_timestamp).toBe(modified_timestamp);
    const read = await napi.client().answer('getNic', mac);
    expect(read.body).toEqual(nic.body);
    expect(read.headers.etag).toBe(nic.headers.etag);
  });
});

describe('an address that is asked for', () => {
  test('is refused where others use it, is outside, or its owner may not', async () => {
    const network = await napi.network(50, { owner_uuids: [randomUUID()] });
    const owner = (network.owner_uuids as string[])[0];
    const ip = network.subnet.replace('.0/24', '.30');
    const user = zoneNic({ ip, owner_uuid: owner });
    await napi.client().call('provisionNic', network.uuid, user);
    const inUse = {
      status: 422,
      body: {
        code: 'InvalidParameters',
        message: 'Invalid parameters',
        errors: [
          {
            field: 'ip',
            code: 'UsedBy',
            type: 'zone',
            id: user.belongs_to_uuid,
            message: `IP in use by zone "${user.belongs_to_uuid}"`,
          },
        ],
      },
    };
    expect(
      await napi.client().refused('provisionNic', network.uuid, zoneNic({ ip, owner_uuid: owner })),
    ).toEqual(inUse);
    // Also to the very machine that has it.
    expect(await napi.client().refused('provisionNic', network.uuid, { ...user })).toEqual(inUse);
    const outside = zoneNic({ ip: '192.0.2.1', owner_uuid: owner });
    expect((await napi.client().refused('provisionNic', network.uuid, outside)).body.errors).toEqual([
      {
        field: 'ip',
        code: 'InvalidParameter',
        message: `IP address 192.0.2.1 is outside the subnet for given network ${network.uuid}`,
      },
    ]);
    expect((await napi.client().refused('provisionNic', network.uuid, zoneNic())).body.errors).toEqual([
      { field: 'owner_uuid', code: 'InvalidParameter', message: 'network owner_uuids do not match' },
    ]);
    await napi.client().call('provisionNic', network.uuid, zoneNic({ check_owner: false }));
  });

  test('goes to one of those who race for it', async () => {
    const network = await napi.network(50);
    const ip = network.subnet.replace('.0/24', '.40');
    const answers = await Promise.all(
      Array.from({ length: 8 }, () =>
        napi.request('POST', `/networks/${network.uuid}/nics`, zoneNic({ ip })),
      ),
    );
    expect(answers.filter((answer) => answer.status === 200)).toHaveLength(1);
    expect(answers.filter((answer) => answer.body.errors?.[0].code === 'UsedBy')).toHaveLength(7);
  });

  test('is found by NIC tag and VLAN, which it needs then', async () => {
    const network = await napi.network(50, { vlan_id: 77 });
    const ip = network.subnet.replace('.0/24', '.9');
    const nic = await napi
      .client()
      .call<Nic>('createNic', 'a:b:c:d:e:f', zoneNic({ ip, nic_tag: 'admin', vlan_id: 77 }));
    expect(nic).toMatchObject({ mac: '0a:0b:0c:0d:0e:0f', ip, network_uuid: network.uuid });
    for (const mac of ['0a0b0c0d0e0f', '0a:0b:0c:0d:0e:0f', '0a-0b-0c-0d-0e-0f', 'a:b:c:d:e:f'])
      expect((await napi.request('GET', `/nics/${mac}`)).body).toEqual(nic);
    const refused = await napi.client().refused('createNic', '90:b8:d0:00:00:01', zoneNic({ ip }));
    const message = 'required if IP specified but not network_uuid';
    expect(refused.body).toEqual({
      code: 'InvalidParameters',
      message: 'Missing parameters',
      errors: [
        { field: 'nic_tag', code: 'MissingParameter', message },
        { field: 'vlan_id', code: 'MissingParameter', message },
      ],
    });
  });
});

describe('changing NICs', () => {
  test('a new primary takes it from the others, on whichever instance', async () => {
    const network = await napi.network(50);
    const owner = { belongs_to_uuid: randomUUID(), owner_uuid: randomUUID() };
    const nics = [];
    for (let i = 0; i < 3; i++) nics.push(await provision(network.uuid, { ...owner, primary: i === 0 }));
    await Promise.all(nics.map((nic) => napi.client().call('updateNic', nic.mac, { primary: true })));
    const listed = await napi.client().call<Nic[]>('getNics', owner.belongs_to_uuid);
    expect(listed.filter((nic) => nic.primary)).toHaveLength(1);
    expect(listed).toHaveLength(3);
  });

  test('a new address is taken and the old one freed; a sibling’s is refused', async () => {
    const network = await napi.network(50);
    const owner = { belongs_to_uuid: randomUUID(), owner_uuid: randomUUID() };
    const [one, two] = await Promise.all([provision(network.uuid, owner), provision(network.uuid, owner)]);
    const ip = network.subnet.replace('.0/24', '.45');
    const moved = await napi.client().call<Nic>('updateNic', one.mac, { ip, network_uuid: network.uuid });
    expect(moved).toMatchObject({ mac: one.mac, ip, created_timestamp: one.created_timestamp });
    expect(await napi.client().call('getIP', network.uuid, one.ip, {})).toMatchObject({ free: true });
    expect(await napi.client().call('getIP', network.uuid, ip, {})).toMatchObject({ free: false, ...owner });
    const stolen = await napi.client().refused('updateNic', one.mac, { ip: two.ip });
    expect(stolen.body.errors).toMatchObject([{ field: 'ip', code: 'UsedBy' }]);
    const elsewhere = await napi.network(50);
    const chosen = await napi.client().call<Nic>('updateNic', one.mac, { network_uuid: elsewhere.uuid });
    expect(chosen.ip).toBe(elsewhere.subnet.replace('.0/24', '.5'));
    expect(await napi.client().call('getIP', network.uuid, ip, {})).toMatchObject({ free: true });
  });

  test('a reserved address stays its owner’s when the NIC is gone', async () => {
    const network = await napi.network(50);
    const nic = await provision(network.uuid);
    await napi.client().call('updateNic', nic.mac, { reserved: true });
    await napi.client().call('deleteNic', nic.mac);
    const left = { reserved: true, free: false, owner_uuid: nic.owner_uuid };
    const ip = await napi.client().call<Obj>('getIP', network.uuid, nic.ip, {});
    expect(ip).toEqual({ ip: nic.ip, network_uuid: network.uuid, ...left });
  });

  test('If-Match: what was changed since is not changed, nor deleted', async () => {
    const network = await napi.network(50);
    const nic = await provision(network.uuid);
    const { etag = '' } = (await napi.client().answer('getNic', nic.mac)).headers;
    // The client writes into the headers that it is given.
    const stale = () => ({ headers: { 'If-Match': 'not the etag' } });
    const precondition = {
      status: 412,
      body: {
        code: 'PreconditionFailed',
        message: `if-match 'not the etag' didn't match etag '${etag}'`,
      },
    };
    expect(await napi.client().refused('getNic', nic.mac, stale())).toEqual(precondition);
    expect(await napi.client().refused('updateNic', nic.mac, { state: 'running' }, stale())).toEqual(
      precondition,
    );
    expect(await napi.client().refused('deleteNic', nic.mac, {}, stale())).toEqual(precondition);
    expect(await napi.client().call('getNic', nic.mac)).toEqual(nic);
    // Of two that change what they saw, one wins.
    const both = await Promise.allSettled(
      ['running', 'stopped'].map((state) =>
        napi.client().answer('updateNic', nic.mac, { state }, { headers: { 'If-Match': etag } }),
      ),
    );
    expect(both.map((result) => result.status).sort()).toEqual(['fulfilled', 'rejected']);
  });

  test('of many deletes at once one deletes, the others find nothing', async () => {
    const network = await napi.network(50);
    const nic = await provision(network.uuid);
    const answers = await Promise.all([1, 2, 3, 4].map(() => napi.request('DELETE', `/nics/${nic.mac}`)));
    expect(answers.map((answer) => answer.status).sort()).toEqual([204, 404, 404, 404]);
    expect(answers.find((answer) => answer.status === 404)?.body).toEqual({
      code: 'ResourceNotFound',
      message: 'nic not found',
    });
  });
});

test('filters and pages of a list', async () => {
  const network = await napi.network(50);
  const cn = randomUUID();
  const made = [];
  for (let i = 0; i < 5; i++)
    made.push(
      await provision(network.uuid, {
        cn_uuid: cn,
        state: i < 2 ? 'running' : 'stopped',
        nic_tags_provided: i === 0 ? ['admin', 'underlay'] : ['admin'],
      }),
    );
  const macs = async (query: Obj) => (await napi.client().call<Nic[]>('listNics', query)).map((n) => n.mac);
  const all = made.map((nic) => nic.mac).sort();
  expect(await macs({ cn_uuid: cn })).toEqual(all);
  expect(await macs({ cn_uuid: cn, limit: 2 })).toEqual(all.slice(0, 2));
  expect(await macs({ cn_uuid: cn, limit: 2, offset: 3 })).toEqual(all.slice(3));
  expect(await macs({ cn_uuid: cn, state: 'running' })).toHaveLength(2);
  expect(await macs({ cn_uuid: cn, nic_tags_provided: 'underlay' })).toEqual([made[0]?.mac]);
  const users = [made[1], made[2]].map((nic) => nic?.belongs_to_uuid);
  expect(await macs({ belongs_to_uuid: users })).toEqual([made[1]?.mac, made[2]?.mac].sort());
  expect(await macs({ belongs_to_uuid: users.join(), state: 'running' })).toEqual([made[1]?.mac]);
  expect((await napi.client().refused('listNics', { limit: 0, foo: 'bar' })).body.errors).toEqual([
    { field: ['foo'], code: 'UnknownParameters', message: 'Unknown parameters: foo' },
    {
      field: 'limit',
      code: 'InvalidParameter',
      message: 'invalid limit, must be an integer greater than 0 or less than or equal to 1000',
    },
  ]);
});

describe('wrong parameters are told in Triton’s words, and nothing is written', () => {
  const invalid = (field: string, message: string) => ({ field, code: 'InvalidParameter', message });

  test('all of them at once', async () => {
    const before = await napi.client().call<Nic[]>('listNics', {});
    const refused = await napi.client().refused('createNic', 'asdf', {
      allow_dhcp_spoofing: 'asdf',
      belongs_to_type: '',
      belongs_to_uuid: 'asdf',
      cn_uuid: 'asdf',
      ip: 'foo',
      model: '',
      network_uuid: 'asdf',
      nic_tag: 'a/b/c',
      owner_uuid: 'invalid',
      primary: 'asdf',
      state: 'oogabooga',
      vlan_id: 'a',
    });
    expect(refused).toEqual({
      status: 422,
      body: {
        code: 'InvalidParameters',
        message: 'Invalid parameters',
        errors: [
          invalid('allow_dhcp_spoofing', 'must be a boolean value'),
          invalid('belongs_to_type', 'must be one of: "other", "server", "zone"'),
          invalid('belongs_to_uuid', 'invalid UUID'),
          invalid('cn_uuid', 'invalid UUID'),
          invalid('ip', 'invalid IP address'),
          invalid('mac', 'invalid MAC address'),
          invalid('model', 'must not be empty'),
          invalid('network_uuid', 'invalid UUID'),
          invalid('nic_tag', 'only one slash is allowed after the tag name'),
          invalid('owner_uuid', 'invalid UUID'),
          invalid('primary', 'must be a boolean value'),
          invalid('state', 'must be one of: "provisioning", "stopped", "running"'),
          invalid('vlan_id', 'VLAN ID must be a number between 0 and 4094, and not 1'),
        ],
      },
    });
    expect(await napi.client().call('listNics', {})).toEqual(before);
  });

  test.each([
    ['nothing', {}, 'Missing parameters', ['belongs_to_type', 'belongs_to_uuid', 'owner_uuid']],
    ['an unknown field', { ...zoneNic(), colour: 1 }, 'Invalid parameters', [['colour']]],
    [
      'a network that is not there',
      zoneNic({ network_uuid: randomUUID() }),
      'Invalid parameters',
      ['network_uuid'],
    ],
    ['a NIC tag that is not there', zoneNic({ nic_tag: 'nowhere' }), 'Invalid parameters', ['nic_tag']],
    [
      'tags that are not there',
      zoneNic({ nic_tags_provided: ['x', 'y'] }),
      'Invalid parameters',
      ['nic_tags_provided'],
    ],
    ['a zone on the underlay', zoneNic({ underlay: true }), 'Invalid parameters', ['underlay']],
  ])('%s', async (_what, params, message, fields) => {
    const refused = await napi.request('POST', '/nics', params);
    expect(refused).toMatchObject({ status: 422, body: { code: 'InvalidParameters', message } });
    expect(refused.body.errors.map((error: { field: unknown }) => error.field)).toEqual(fields);
  });

  test.each([
    ['malformed JSON', '{"belongs_to_type":', 400, 'InvalidContent'],
    ['a list', '[1]', 422, 'InvalidParameters'],
    ['more than 1 MB', JSON.stringify({ model: 'x'.repeat(1024 * 1024) }), 413, 'RequestEntityTooLarge'],
  ])('%s', async (_what, body, status, code) => {
    const refused = await napi.request('POST', '/nics', body);
    expect([refused.status, refused.body.code]).toEqual([status, code]);
    expect((await napi.request('GET', '/ping')).body.status).toBe('OK');
  });

  test.each(['GET', 'PUT', 'DELETE'])('%s of a MAC that is none', async (method) => {
    const refused = await napi.request(method, '/nics/foobar', method === 'PUT' ? {} : undefined);
    expect(refused).toMatchObject({
      status: 422,
      body: { errors: [invalid('mac', 'invalid MAC address')] },
    });
  });
});
