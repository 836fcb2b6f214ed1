import { describe, expect, test } from 'vitest';
import { type DesiredOf, desiredSchema } from '../../../agents/contract/desired.ts';
import type { VmRecord } from '../../common/records.ts';
import { parseRule } from '../models/rule.ts';
import { computeFirewall } from './compute.ts';

const owner = '5f9ba8c3-4fd0-4e4c-8d5e-7f3f4f2c6c55';
const uuid = (n: number) => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;

function vm(n: number, fields: Partial<VmRecord> = {}): VmRecord {
  return {
    uuid: uuid(n),
    owner_uuid: owner,
    server_uuid: uuid(900 + n),
    state: 'running',
    firewall_enabled: true,
    tag_map: {},
    nics: [{ mac: `90:b8:d0:00:00:0${n}`, ips: [`10.0.0.${n}/24`] }],
    ...fields,
  };
}

const rule = (text: string, fields = {}) =>
  parseRule({ rule: text, owner_uuid: owner, enabled: true, ...fields });

function ruleObjects(vms: VmRecord[], ...rules: ReturnType<typeof rule>[]): DesiredOf<'firewall-rule'>[] {
  const desired = computeFirewall(owner, vms, rules);
  for (const object of desired) desiredSchema.parse(object);
  return desired.filter((object) => object.kind === 'firewall-rule');
}

describe('a rule from tag to tag', () => {
  const text = 'FROM tag role = web TO tag role = db ALLOW icmp TYPE 8 CODE 0';
  const web = vm(1, { tag_map: { role: 'web' } });
  const db = vm(2, { tag_map: { role: 'db' } });

  test('lets in from the one at the other, and out of the one to the other, on both nodes', () => {
    const [object, ...more] = ruleObjects([web, db, vm(3)], rule(text));
    expect(more).toEqual([]);
    expect(object?.span).toEqual([uuid(901), uuid(902)]);
    expect(object?.body).toMatchObject({
      action: 'allow',
      protocol: 'icmp',
      types: [{ type: 8, code: 0 }],
      in: { vms: [uuid(2)], peers: ['10.0.0.1'] },
      out: { vms: [uuid(1)], peers: ['10.0.0.2'] },
    });
  });

  test('a peer without a firewall counts as a peer and gets no rule', () => {
    const [object] = ruleObjects([{ ...web, firewall_enabled: false }, db], rule(text));
    expect(object?.span).toEqual([uuid(902)]);
    expect(object?.body).toMatchObject({ in: { peers: ['10.0.0.1'] } });
    expect(object?.body.out).toBeUndefined();
  });

  test.each([
    ['the tag has another value', { tag_map: { role: 'cache' } }],
    ['the machine is destroyed', { state: 'destroyed' }],
    ['the machine is not placed', { server_uuid: null }],
  ])('nothing where %s', (_name, fields) => {
    expect(ruleObjects([{ ...web, ...fields }, db], rule(text))).toEqual([]);
  });
});

test('a machine without an address is nobody’s peer', () => {
  const vms = [vm(1, { tag_map: { role: 'web' }, nics: [] }), vm(2, { tag_map: { role: 'db' } })];
  const [object] = ruleObjects(vms, rule('FROM tag role = web TO tag role = db ALLOW tcp PORT 1'));
  expect(object?.body.in).toBeUndefined();
});

test('any, subnets, ports and ranges, all vms', () => {
  const [object] = ruleObjects(
    [vm(1), vm(2)],
    rule('FROM (ip 192.0.2.7 OR subnet 10.1.0.0/16) TO all vms BLOCK tcp PORTS 80, 90-100 PRIORITY 4'),
  );
  expect(object?.body).toMatchObject({
    action: 'block',
    priority: 4,
    ports: [
      { start: 80, end: 80 },
      { start: 90, end: 100 },
    ],
    in: { vms: [uuid(1), uuid(2)], peers: ['10.1.0.0/16', '192.0.2.7'] },
  });
  expect(object?.body.out).toBeUndefined();
  const [any] = ruleObjects([vm(1)], rule('FROM all vms TO any BLOCK udp PORT all'));
  expect(any?.body).toMatchObject({ ports: 'all', out: { vms: [uuid(1)], peers: 'any' } });
});

test('a disabled rule is not there; a guarded machine is, alone', () => {
  const desired = computeFirewall(
    owner,
    [vm(1), vm(2, { firewall_enabled: false })],
    [rule('FROM any TO all vms ALLOW tcp PORT 22', { enabled: false })],
  );
  expect(desired.map((object) => [object.key, object.span])).toEqual([
    [`firewall-vm/${uuid(1)}`, [uuid(901)]],
  ]);
});

test('an invalid rule is refused with its fields', () => {
  expect(() => parseRule({ rule: 'FROM any TO foo', enabled: 'maybe' })).toThrow(
    expect.objectContaining({
      code: 'InvalidParameters',
      status: 422,
      errors: expect.arrayContaining([
        expect.objectContaining({ field: 'rule' }),
        expect.objectContaining({ field: 'enabled' }),
      ]),
    }),
  );
});
