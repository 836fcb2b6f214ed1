import { describe, expect, it } from 'vitest';
import type { Change } from '../../../changefeed/types.ts';
import { newVm, withPrimary } from './create.ts';
import { escapeFilter, listFilter, listPage, listSchema } from './list.ts';
import { applyMetadata, searchArray, tagString } from './metadata.ts';
import { networksSchema } from './networks.ts';
import { addNics, napiNicSchema, prefixLength, removeNics } from './nics.ts';
import { type CreateParams, createSchema } from './params.ts';
import { applyReport } from './report.ts';
import { presentVm, type Vm } from './vm.ts';
import { vmItem } from './vm-item.ts';

const uuid = '01b2c898-945f-11e1-a523-af1afbe22822';
const other = '28445220-6eac-11e1-9ce8-5f14ed22e782';

function vm(more: Partial<Vm> = {}, params: object = {}): Vm {
  const given: CreateParams = createSchema.parse({
    owner_uuid: uuid,
    brand: 'joyent',
    ram: 128,
    image_uuid: uuid,
    networks: [uuid],
    ...params,
  });
  return { ...newVm(other, given, new Date(0)), ...more };
}

function nic(mac: string, primary = false) {
  return napiNicSchema.parse({
    mac,
    ip: '10.0.0.5',
    netmask: '255.255.252.0',
    vlan_id: 0,
    nic_tag: 'admin',
    network_uuid: uuid,
    primary,
  });
}

describe('tags', () => {
  it('may not hold what their index cannot', () => {
    expect(() => vm({}, { tags: { 'a\u0000': 'b' } })).toThrow('NUL');
    expect(() => vm({}, { tags: { a: '\u0000' } })).toThrow('NUL');
    expect(vm({}, { customer_metadata: { a: '\u0000' } }).customer_metadata).toEqual({ a: '\u0000' });
  });

  it('stand in Triton’s searchable string, with what separates them escaped', () => {
    expect(tagString({ 'a-b': 'c=d-e', n: -1, up: true })).toBe('-a%2Db=c%3Dd%2De-n=%n{%2D1}-up=%b{true}-');
    expect(tagString({})).toBe('');
  });

  it('are changed pair by pair, or replaced', () => {
    const change = { set: { b: 2 }, remove: ['a'] };
    expect(applyMetadata({ a: 1, b: 1, c: 1 }, { ...change, replace: false })).toEqual({ b: 2, c: 1 });
    expect(applyMetadata({ a: 1, b: 1, c: 1 }, { ...change, replace: true })).toEqual({ b: 2 });
  });

  it('and internal metadata are searchable up to a length', () => {
    expect(searchArray({ a: 'x'.repeat(100), b: 'x'.repeat(101), c: 1 })).toEqual([
      `a=${'x'.repeat(100)}`,
      'c=1',
    ]);
  });
});

describe('the networks parameter', () => {
  const parse = (given: unknown) => networksSchema.safeParse(given);

  it('has many forms', () => {
    expect(parse(`${uuid},${other}`).data).toEqual([
      { ipv4_uuid: uuid, primary: false },
      { ipv4_uuid: other, primary: false },
    ]);
    expect(parse([{ uuid, ip: '10.0.0.1', primary: 'true' }]).data).toEqual([
      { ipv4_uuid: uuid, ipv4_ips: ['10.0.0.1'], primary: true },
    ]);
    expect(parse([{ ipv4_uuid: uuid, ipv4_count: 1 }]).data).toEqual([{ ipv4_uuid: uuid, primary: false }]);
    expect(parse([{ name: 'external' }]).data).toEqual([{ name: 'external', primary: false }]);
  });

  it.each([
    ['nothing', []],
    ['no network', [{ primary: true }]],
    [
      'two primary ones',
      [
        { uuid, primary: true },
        { uuid: other, primary: true },
      ],
    ],
    ['both forms', [{ uuid, ipv4_uuid: uuid }]],
    ['an address and a count', [{ ipv4_uuid: uuid, ipv4_count: 1, ipv4_ips: ['10.0.0.1'] }]],
    ['two addresses', [{ ipv4_uuid: uuid, ipv4_ips: ['10.0.0.1', '10.0.0.2'] }]],
    ['no address', [{ ipv4_uuid: uuid, ipv4_ips: ['localhost'] }]],
    ['more than one NIC', [{ ipv4_uuid: uuid, ipv4_count: 2 }]],
    ['IPv6', [{ ipv4_uuid: uuid, ipv6_uuid: uuid }]],
    ['a number', 7],
  ])('is refused with %s', (_what, given) => {
    expect(parse(given).success).toBe(false);
  });

  it('makes the first one primary where none is', () => {
    const [a, b] = [{ ipv4_uuid: uuid }, { ipv4_uuid: other }];
    expect(
      withPrimary([
        { ...a, primary: false },
        { ...b, primary: false },
      ]),
    ).toMatchObject([{ primary: true }, { primary: false }]);
    expect(
      withPrimary([
        { ...a, primary: false },
        { ...b, primary: true },
      ]),
    ).toMatchObject([{ primary: false }, { primary: true }]);
  });
});

describe('lists', () => {
  const filter = (query: object) => listFilter(listSchema.parse(query));

  it('are filtered, whatever stands in a value', () => {
    expect(filter({})).toBe('(uuid=*)');
    expect(filter({ state: 'active', alias: 'web' })).toBe(
      '(&(alias=web*)(!(state=destroyed))(!(state=failed)))',
    );
    expect(filter({ 'tag.a)(b': 'x*y' })).toBe('(&(|(tags=*-a\\29\\28b=x\\2ay-*)))');
    expect(filter({ 'internal_metadata.k': 'v)' })).toBe('(&(internal_metadata_search_array=k=v\\29))');
    expect(escapeFilter('a\\b\0')).toBe('a\\5cb\\00');
  });

  it('go on behind a marker', () => {
    const page = (query: object) => listPage(listSchema.parse(query)).after;
    expect(page({ marker: JSON.stringify({ uuid }) })).toBe(`(&(uuid<=${uuid})(!(uuid=${uuid})))`);
    const marker = JSON.stringify({ uuid, create_timestamp: '1970-01-01T00:00:01Z' });
    expect(page({ sort: 'create_timestamp.asc', marker })).toBe(
      `(&(create_timestamp>=1000)(!(&(create_timestamp=1000)(uuid<=${uuid}))))`,
    );
  });

  it.each([
    ['an unknown field', { color: 'red' }],
    ['a tag without a key', { 'tag.': 'x' }],
    ['a marker and an offset', { marker: JSON.stringify({ uuid }), offset: '1' }],
    ['a marker without what is sorted by', { marker: JSON.stringify({ uuid }), sort: 'alias' }],
    ['a marker with more than that', { marker: JSON.stringify({ uuid, alias: 'a' }) }],
    ['a marker that is no object', { marker: '[1]' }],
    ['a sort by something else', { sort: 'ram' }],
    ['no limit', { limit: '0' }],
  ])('refuse %s', (_what, query) => {
    expect(listSchema.safeParse(query).success).toBe(false);
  });
});

describe('NICs', () => {
  it('have their interfaces’ numbers in turn, and one primary', () => {
    const two = addNics([], [nic('a'), nic('b')]);
    expect(two).toMatchObject([
      { interface: 'net0', mac: 'a', primary: true, ips: ['10.0.0.5/22'] },
      { interface: 'net1', mac: 'b', primary: false },
    ]);
    const left = removeNics(two, ['a']);
    expect(left).toMatchObject([{ interface: 'net1', primary: true }]);
    expect(addNics(left, [nic('c', true)])).toMatchObject([
      { interface: 'net1', primary: false },
      { interface: 'net2', mac: 'c', primary: true },
    ]);
    expect(prefixLength('255.255.255.255')).toBe(32);
    expect(prefixLength('0.0.0.0')).toBe(0);
  });
});

describe('a node’s report', () => {
  const now = new Date(1_000_000);
  const at = (ms: number) => new Date(ms).toISOString();
  const placed = (more: Partial<Vm> = {}) =>
    vm({ server_uuid: uuid, state: 'running', reported: at(500_000), ...more });

  it('changes the state, and nothing that is VMAPI’s', () => {
    const next = applyReport(
      placed(),
      { state: 'stopped', alias: 'x', tags: {}, last_modified: at(600_000) },
      now,
    );
    expect(next).toEqual({
      ...placed(),
      state: 'stopped',
      reported: at(600_000),
      last_modified: at(600_000),
    });
  });

  it.each([
    ['is of a VM that is destroyed', placed({ state: 'destroyed' }), {}],
    ['comes from another node', placed(), { server_uuid: other }],
    ['comes after a newer one', placed(), { last_modified: at(400_000) }],
    ['is no news', placed({ state: 'stopped' }), { last_modified: at(500_000) }],
  ])('is passed over when it %s', (_what, present, more) => {
    expect(applyReport(present, { state: 'stopped', ...more }, now)).toBeUndefined();
  });

  it('is heard from a node whose clock was set back', () => {
    const report = { state: 'stopped', last_modified: at(100_000) };
    expect(applyReport(placed(), report, now)).toMatchObject({ state: 'stopped' });
  });

  it('leaves it to the jobs to say that a VM has failed, goes or is gone', () => {
    const gone = { state: 'destroyed', last_modified: at(600_000) };
    expect(applyReport(placed({ state: 'stopping' }), gone, now)).toMatchObject({
      state: 'stopping',
      zone_state: 'destroyed',
    });
    const early = { ...gone, last_modified: at(400_000) };
    expect(applyReport(placed({ state: 'stopping' }), early, now)).toMatchObject({ zone_state: 'destroyed' });
    const back = { state: 'running', zone_state: 'running', last_modified: at(600_000) };
    expect(applyReport(placed({ state: 'failed' }), back, now)).toMatchObject({
      state: 'failed',
      zone_state: 'running',
    });
    expect(applyReport(placed({ state: 'stopping' }), back, now)).toMatchObject({ state: 'stopping' });
    const unheardOf = { state: 'expected', last_modified: at(600_000) };
    expect(applyReport(placed({ state: 'provisioning' }), unheardOf, now)).toMatchObject({
      state: 'provisioning',
    });
  });
});

describe('a VM', () => {
  it('is shown with Triton’s fields, and only those', () => {
    const shown = presentVm(vm({ pid: 7 }, { tags: { a: 1 }, kernel_version: '3.13' }));
    expect(shown).toMatchObject({
      tags: { a: 1 },
      pid: 7,
      kernel_version: '3.13',
      zpool: null,
      image_uuid: uuid,
    });
    for (const field of ['tag_map', 'reported', 'data_version', 'internal_metadata_search_array']) {
      expect(shown).not.toHaveProperty(field);
    }
    const hardware = presentVm(vm({}, { brand: 'kvm', disks: [{ image_uuid: uuid }], vcpus: 2 }));
    expect(hardware).toMatchObject({ vcpus: 2, disks: [{ image_uuid: uuid }], quota: null });
    expect(hardware).not.toHaveProperty('image_uuid');
  });

  it('is in the changefeed once a change, with what changed', () => {
    const item = (previous: Vm | null, value: Vm) =>
      vmItem.toItem({ key: other, value, previous } as Change)?.subResources;
    expect(item(vm(), vm({ state: 'running', server_uuid: uuid }))).toEqual(['server_uuid', 'state']);
    expect(item(vm(), vm({ tag_map: { a: 1 } }))).toEqual(['tags']);
    expect(item(vm(), vm({ reported: 'now' }))).toBeUndefined();
    expect(item(null, vm())).toContain('state');
  });
});
