import { describe, expect, it } from 'vitest';
import type { FirewallRuleBody } from '../contract/desired.ts';
import { rule } from '../testing/objects.ts';
import { type Closed, closeRule } from './closed.ts';
import { compile, type FirewallInput, type Numbers } from './compile.ts';
import type { Ruleset } from './ruleset.ts';
import { checkRule } from './validate.ts';

const web = '11111111-0000-4000-8000-000000000000';
const db = '22222222-0000-4000-8000-000000000000';
const elsewhere = '33333333-0000-4000-8000-000000000000';
const numbers: Numbers = { vm: (uuid) => Number(uuid[0]), zone: (bridge) => bridge.length };

function firewall(rules: readonly Partial<FirewallRuleBody>[], more: Partial<FirewallInput> = {}): Ruleset {
  return compile(
    {
      vms: [
        { uuid: web, owner: 'one', macs: ['02:00:00:00:00:01'] },
        { uuid: db, owner: 'two', macs: ['02:00:00:00:00:02'] },
      ],
      rules: new Map(rules.map((body, i) => [`firewall-rule/${i}/o`, rule(body)])),
      closed: [],
      bridges: ['bf5.2'],
      ...more,
    },
    numbers,
  );
}

/** A VM's chain, with the names of sets replaced by what is in them. */
function chain(ruleset: Ruleset, direction: 'in' | 'out', vm: string): string[] {
  const inet = ruleset.tables.find(({ family }) => family === 'inet');
  const rules = inet?.chains.get(`${direction}_${vm[0]}`)?.rules ?? ['no chain'];
  return rules.map((line) =>
    line.replace(
      /@(\w+)/g,
      (_, name: string) => `[${[...(inet?.sets.get(name)?.elements.keys() ?? [])].join(' ')}]`,
    ),
  );
}

const any = (vm: string) => ({ vms: [vm], peers: 'any' as const });
const tcp = (...ports: [number, number][]) => ({
  protocol: 'tcp' as const,
  types: undefined,
  ports: ports.map(([start, end]) => ({ start, end })),
});

describe('the default', () => {
  it('blocks what comes in and lets out what goes out', () => {
    expect(chain(firewall([]), 'in', web)).toEqual(['drop']);
    expect(chain(firewall([]), 'out', web)).toEqual([]);
  });

  it('concerns only VMs that have their firewall on', () => {
    const ruleset = firewall([{ in: any(elsewhere) }], { vms: [] });
    for (const { sets } of ruleset.tables)
      for (const { elements } of sets.values()) expect(elements.size).toBe(0);
    expect(chain(ruleset, 'in', elsewhere)).toEqual(['no chain']);
  });

  it('marks each port of a VM with the VM’s number, as sender and as receiver', () => {
    const vms = [{ uuid: db, owner: 'two', macs: ['02:00:00:00:00:02', '02:00:00:00:00:03'] }];
    const [bridge] = firewall([], { vms }).tables;
    expect([...(bridge?.sets.get('senders')?.elements ?? [])]).toEqual([
      ['"v020000000002"', '0x00020000'],
      ['"v020000000003"', '0x00020000'],
    ]);
    expect([...(bridge?.sets.get('receivers')?.elements.values() ?? [])]).toEqual(['jump to_2', 'jump to_2']);
    expect(bridge?.chains.get('to_2')?.rules.at(-1)).toBe('meta mark set meta mark | 0x00000002');
  });
});

describe('what a rule matches', () => {
  const cases: [string, Partial<FirewallRuleBody>, string[]][] = [
    [
      'ports, sorted and joined',
      tcp([443, 443], [80, 90], [85, 100], [101, 101]),
      ['tcp dport { 80-101, 443 }'],
    ],
    ['all ports', { protocol: 'udp', types: undefined, ports: 'all' }, ['meta l4proto udp']],
    ['an ICMP type with its code', {}, ['icmp type 8 icmp code 0']],
    ['ICMP types', { types: [{ type: 8 }, { type: 0 }] }, ['icmp type { 0, 8 }']],
    [
      'a type beside the same type with a code',
      { types: [{ type: 3, code: 1 }, { type: 3 }, { type: 8, code: 0 }] },
      ['icmp type { 3 }', 'icmp type 8 icmp code 0'],
    ],
    ['all of ICMP, and not IPv6’s', { types: 'all' }, ['meta nfproto ipv4 meta l4proto icmp']],
    ['all of ICMPv6', { protocol: 'icmp6', types: 'all' }, ['meta nfproto ipv6 meta l4proto ipv6-icmp']],
    [
      'AH, which IPv6 has as an extension',
      { protocol: 'ah', types: undefined },
      ['meta nfproto ipv4 meta l4proto ah', 'ip6 nexthdr ah'],
    ],
    ['ESP', { protocol: 'esp', types: undefined }, ['meta l4proto esp']],
  ];
  it.each(cases)('%s', (_, body, expected) => {
    const made = chain(firewall([{ ...body, in: any(web) }]), 'in', web);
    expect(made).toEqual([...expected.map((match) => `${match} accept`), 'drop']);
  });

  it('the source of what comes in and the destination of what goes out', () => {
    const ruleset = firewall([
      {
        ...tcp([22, 22]),
        in: { vms: [web], peers: ['10.0.0.7', 'fd00::7', '10.1.0.0/16', 'fd00:1::/64'] },
        out: { vms: [db], peers: ['10.0.0.8/32'] },
      },
    ]);
    expect(chain(ruleset, 'in', web)).toEqual([
      'ip saddr [10.0.0.7] tcp dport { 22 } accept',
      'ip saddr { 10.1.0.0/16 } tcp dport { 22 } accept',
      'ip6 saddr [fd00::7] tcp dport { 22 } accept',
      'ip6 saddr { fd00:1::/64 } tcp dport { 22 } accept',
      'drop',
    ]);
    expect(chain(ruleset, 'out', db)).toEqual(['ip daddr [10.0.0.8] tcp dport { 22 } return']);
    expect(chain(ruleset, 'out', web)).toEqual([]);
    expect(chain(ruleset, 'in', db)).toEqual(['drop']);
  });

  it('only the peers of its protocol’s family', () => {
    const peers = ['10.0.0.7', 'fd00::7', 'fd00:1::/64'];
    expect(chain(firewall([{ in: { vms: [web], peers } }]), 'in', web)).toEqual([
      'ip saddr [10.0.0.7] icmp type 8 icmp code 0 accept',
      'drop',
    ]);
    const six = firewall([{ protocol: 'icmp6', types: [{ type: 128 }], in: { vms: [web], peers } }]);
    expect(chain(six, 'in', web)).toEqual([
      'ip6 saddr [fd00::7] icmpv6 type { 128 } accept',
      'ip6 saddr { fd00:1::/64 } icmpv6 type { 128 } accept',
      'drop',
    ]);
  });

  it('nobody, when it has no peers', () => {
    expect(chain(firewall([{ in: { vms: [web], peers: [] } }]), 'in', web)).toEqual(['drop']);
  });

  it('subnets by their base, without those that another holds', () => {
    const peers = ['10.1.2.3/8', '10.9.0.0/16', '192.168.0.0/24', '0.0.0.0/0'];
    expect(chain(firewall([{ in: { vms: [web], peers } }]), 'in', web)[0]).toContain('{ 0.0.0.0/0 }');
    expect(chain(firewall([{ in: { vms: [web], peers: peers.slice(0, 3) } }]), 'in', web)[0]).toContain(
      '{ 10.0.0.0/8, 192.168.0.0/24 }',
    );
  });

  it('is logged once a connection', () => {
    const made = chain(firewall([{ log: true, rule_uuid: web, in: any(web) }]), 'in', web);
    expect(made[0]).toBe(`icmp type 8 icmp code 0 ct state new log prefix "conger:${web} "`);
  });
});

describe('order', () => {
  const block = { action: 'block' as const, ...tcp([2, 2]) };
  const allow = { action: 'allow' as const, ...tcp([1, 1]) };

  it('an incoming ALLOW beats a BLOCK of the same priority', () => {
    const made = chain(
      firewall([
        { ...block, in: any(web) },
        { ...allow, in: any(web) },
      ]),
      'in',
      web,
    );
    expect(made).toEqual(['tcp dport { 1 } accept', 'tcp dport { 2 } drop', 'drop']);
  });

  it('an outgoing BLOCK beats an ALLOW of the same priority', () => {
    const made = chain(
      firewall([
        { ...allow, out: any(web) },
        { ...block, out: any(web) },
      ]),
      'out',
      web,
    );
    expect(made).toEqual(['tcp dport { 2 } drop', 'tcp dport { 1 } return']);
  });

  it('a higher priority comes first whatever it says', () => {
    const incoming = firewall([
      { ...allow, in: any(web) },
      { ...block, priority: 1, in: any(web) },
    ]);
    expect(chain(incoming, 'in', web)).toEqual(['tcp dport { 2 } drop', 'tcp dport { 1 } accept', 'drop']);
    const outgoing = firewall([
      { ...block, out: any(web) },
      { ...allow, priority: 100, out: any(web) },
    ]);
    expect(chain(outgoing, 'out', web)).toEqual(['tcp dport { 1 } return', 'tcp dport { 2 } drop']);
  });

  it('does not depend on the order in which objects arrived', () => {
    const rules = [0, 1, 2, 3].map((i) =>
      rule({ ...(i % 2 ? block : allow), priority: i >> 1, in: any(web) }),
    );
    const keyed = rules.map((body, i): [string, FirewallRuleBody] => [`firewall-rule/${i}/o`, body]);
    expect(chain(firewall([], { rules: new Map(keyed) }), 'in', web)).toEqual(
      chain(firewall([], { rules: new Map([...keyed].reverse()) }), 'in', web),
    );
  });
});

describe('a rule that is not valid', () => {
  const closedBy = (raw: unknown) => {
    const closed = closeRule(raw);
    return firewall([{ ...tcp([80, 80]), priority: 100, in: any(web), out: any(web) }], {
      closed: closed === null ? [] : [closed],
    });
  };
  const open = ['tcp dport { 80 } accept', 'drop'];
  const bad = { peers: 'what' };

  it('and would allow is left out', () => {
    expect(chain(closedBy({ owner_uuid: 'one', body: { action: 'allow', in: bad } }), 'in', web)).toEqual(
      open,
    );
  });

  it('and would block blocks its protocol, before any other rule, whatever its priority', () => {
    const ruleset = closedBy({
      owner_uuid: 'one',
      body: { action: 'block', protocol: 'tcp', ports: 'nonsense', in: { vms: [web] } },
    });
    expect(chain(ruleset, 'in', web)).toEqual(['meta l4proto tcp drop', ...open]);
    expect(chain(ruleset, 'out', web)).toEqual(['tcp dport { 80 } return']);
    expect(chain(ruleset, 'in', db)).toEqual(['drop']);
  });

  it('and whose protocol cannot be told blocks every one', () => {
    const ruleset = closedBy({ body: { action: 'block', protocol: 'sctp', out: { vms: [web] } } });
    expect(chain(ruleset, 'out', web)).toEqual(['drop', 'tcp dport { 80 } return']);
    expect(chain(ruleset, 'in', web)).toEqual(open);
  });

  it('and whose VMs cannot be told concerns every VM of its owner', () => {
    const ruleset = closedBy({ owner_uuid: 'one', body: { action: 'block', protocol: 'udp', in: bad } });
    expect(chain(ruleset, 'in', web)).toEqual(['meta l4proto udp drop', ...open]);
    expect(chain(ruleset, 'out', web)).toEqual(['tcp dport { 80 } return']);
    expect(chain(ruleset, 'in', db)).toEqual(['drop']);
  });

  it.each([
    [{ owner_uuid: 'one' }],
    [{ owner_uuid: 'one', body: { action: 'limit' } }],
    [{ owner_uuid: 'one', body: 7 }],
  ])('and of which nothing can be told closes the owner’s VMs both ways: %j', (raw) => {
    expect(chain(closedBy(raw), 'in', web)[0]).toBe('drop');
    expect(chain(closedBy(raw), 'out', web)[0]).toBe('drop');
    expect(chain(closedBy(raw), 'out', db)).toEqual([]);
  });

  it('and has no owner either closes every VM', () => {
    const closed: Closed = { protocol: null, inVms: null, outVms: null, owner: null };
    expect(closeRule('nonsense')).toEqual(closed);
    expect(chain(closedBy('nonsense'), 'out', db)).toEqual(['drop']);
  });
});

describe('checkRule', () => {
  const incoming = (peers: string[]) => ({ in: { vms: [web], peers } });
  const good: Partial<FirewallRuleBody>[] = [
    incoming(['10.0.0.1', '10.0.0.0/8', 'fd00::1', 'fd00::/8', '::/0']),
    { ...tcp([1, 65535]), out: any(web) },
    { protocol: 'esp', types: undefined, in: any(web) },
  ];
  it.each(good.map((body) => [body]))('takes %j', (body) => {
    expect(checkRule(rule(body))).toBeNull();
  });

  const bad: Partial<FirewallRuleBody>[] = [
    {},
    incoming(['10.0.0.256']),
    incoming(['10.0.0.0/33']),
    incoming(['10.1']),
    incoming(['fe80::1%eth0']),
    incoming(['10.0.0.1; flush ruleset']),
    { ...tcp([80, 79]), in: any(web) },
    { ...tcp([80, 65536]), in: any(web) },
    { ...tcp(), in: any(web) },
    { protocol: 'tcp', types: undefined, in: any(web) },
    { types: [{ type: 256 }], in: any(web) },
    { types: [{ type: 8, code: -1 }], in: any(web) },
    { types: undefined, in: any(web) },
    { rule_uuid: 'x" drop', in: any(web) },
  ];
  it.each(bad.map((body) => [body]))('refuses %j', (body) => {
    expect(checkRule(rule(body))).toEqual(expect.any(String));
  });
});
