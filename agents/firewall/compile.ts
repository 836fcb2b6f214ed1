import { createHash } from 'node:crypto';
import type { FirewallRuleBody } from '../contract/desired.ts';
import { portName } from '../driver/names.ts';
import { type Peers, sortPeers } from './addresses.ts';
import type { Closed } from './closed.ts';
import { matches, protocolMatches } from './match.ts';
import type { Chain, NamedSet, Ruleset } from './ruleset.ts';

/** A VM whose firewall is on. */
export interface FirewalledVm {
  readonly uuid: string;
  readonly owner: string;
  readonly macs: readonly string[];
}

export interface FirewallInput {
  readonly vms: readonly FirewalledVm[];
  /** By desired key; every one is valid (validate.ts). */
  readonly rules: ReadonlyMap<string, FirewallRuleBody>;
  readonly closed: readonly Closed[];
  /** Every bridge of the node; each gets a conntrack zone, so that networks with equal addresses stay apart. */
  readonly bridges: readonly string[];
}

/** Numbers that stay with what they stand for: a VM's mark and a bridge's conntrack zone, 1 to 65535. */
export interface Numbers {
  vm(uuid: string): number;
  zone(bridge: string): number;
}

type Direction = 'in' | 'out';

const hex = (n: number) => `0x${n.toString(16).padStart(8, '0')}`;

/** The name of the set of a rule's peers that are single hosts. */
function hostSet(key: string, direction: Direction, family: 4 | 6): string {
  return `h${createHash('sha256').update(key).digest('hex').slice(0, 16)}_${direction}${family}`;
}

/**
 * Order of a VM's rules: higher priority first; among equals, what goes against the default comes first (incoming
 * ALLOW before BLOCK, outgoing BLOCK before ALLOW).
 */
function inOrder(
  direction: Direction,
  rules: readonly [string, FirewallRuleBody][],
): [string, FirewallRuleBody][] {
  const first = direction === 'in' ? 'allow' : 'block';
  return [...rules].sort(([keyA, a], [keyB, b]) => {
    if (a.priority !== b.priority) return b.priority - a.priority;
    if (a.action !== b.action) return a.action === first ? -1 : 1;
    return keyA < keyB ? -1 : 1;
  });
}

/**
 * Compiles a node's firewall. A pure function: equal input and numbers give an equal ruleset.
 *
 * The `bridge` chain writes the sending VM's number into the upper half of the packet's mark and the receiving VM's into the
 * lower; the `inet` chain looks up the sender's and then the receiver's rules by it. A mark of 0 is a packet between
 * VMs without a firewall. Replies of a connection, and errors about one, pass; packets in the direction in which it was opened meet the rules
 * each time, so that a rule that is removed stops what it had let in.
 */
export function compile(input: FirewallInput, numbers: Numbers): Ruleset {
  const sets = new Map<string, NamedSet>();
  const senders = new Map<string, string>();
  const receivers = new Map<string, string>();
  const egress = new Map<string, string>();
  const ingress = new Map<string, string>();
  const marks = new Map<string, Chain>();
  const chains = new Map<string, Chain>();

  const local = new Map([...input.vms].sort((a, b) => (a.uuid < b.uuid ? -1 : 1)).map((vm) => [vm.uuid, vm]));
  const byVm = {
    in: new Map<string, [string, FirewallRuleBody][]>(),
    out: new Map<string, [string, FirewallRuleBody][]>(),
  };
  const peersOf = new Map<string, Peers | 'any'>();
  for (const [key, rule] of input.rules) {
    for (const direction of ['in', 'out'] as const) {
      const side = rule[direction];
      const here = new Set((side?.vms ?? []).filter((uuid) => local.has(uuid)));
      if (side === undefined || here.size === 0) continue;
      const peers = side.peers === 'any' ? 'any' : sortPeers(side.peers);
      peersOf.set(`${direction} ${key}`, peers);
      for (const uuid of here) {
        const list = byVm[direction].get(uuid) ?? [];
        list.push([key, rule]);
        byVm[direction].set(uuid, list);
      }
      if (peers === 'any') continue;
      for (const [family, hosts] of [
        [4, peers.hosts4],
        [6, peers.hosts6],
      ] as const) {
        if (hosts.length === 0) continue;
        const type = family === 4 ? 'ipv4_addr' : 'ipv6_addr';
        sets.set(hostSet(key, direction, family), {
          kind: 'set',
          type,
          elements: new Map(hosts.map((h) => [h, ''])),
        });
      }
    }
  }

  const rulesFor = (vm: FirewalledVm, direction: Direction): string[] => {
    const lines: string[] = [];
    for (const closed of input.closed) {
      const vms = direction === 'in' ? closed.inVms : closed.outVms;
      const meant = vms === null ? closed.owner === null || closed.owner === vm.owner : vms.includes(vm.uuid);
      if (!meant) continue;
      const what = closed.protocol === null ? [''] : protocolMatches(closed.protocol);
      lines.push(...what.map((match) => `${match} drop`.trim()));
    }
    for (const [key, rule] of inOrder(direction, byVm[direction].get(vm.uuid) ?? [])) {
      const verdict = rule.action === 'block' ? 'drop' : direction === 'in' ? 'accept' : 'return';
      const peers = peersOf.get(`${direction} ${key}`) ?? 'any';
      for (const match of matches(rule, direction, peers, (family) => hostSet(key, direction, family))) {
        if (rule.log) lines.push(`${match} ct state new log prefix "conger:${rule.rule_uuid} "`);
        lines.push(`${match} ${verdict}`);
      }
    }
    return lines;
  };

  for (const vm of local.values()) {
    const number = numbers.vm(vm.uuid);
    for (const mac of [...vm.macs].sort()) {
      senders.set(`"${portName(mac)}"`, hex(number * 0x10000));
      receivers.set(`"${portName(mac)}"`, `jump to_${number}`);
    }
    // Only IP and ARP get as far as rules; anything else (a tagged frame, say) would go round them.
    marks.set(`to_${number}`, {
      base: null,
      rules: ['ether type != { ip, ip6, arp } drop', `meta mark set meta mark | ${hex(number)}`],
    });
    chains.set(`out_${number}`, { base: null, rules: rulesFor(vm, 'out') });
    chains.set(`in_${number}`, { base: null, rules: [...rulesFor(vm, 'in'), 'drop'] });
    egress.set(hex(number * 0x10000), `jump out_${number}`);
    ingress.set(hex(number), `jump in_${number}`);
  }

  const zones = [...input.bridges].sort().map((bridge) => `"${bridge}" : ${numbers.zone(bridge)}`);
  return {
    tables: [
      {
        family: 'bridge',
        sets: new Map([
          ['senders', { kind: 'map', type: 'ifname : mark', elements: senders }],
          ['receivers', { kind: 'map', type: 'ifname : verdict', elements: receivers }],
        ]),
        chains: new Map([
          [
            'forward',
            {
              base: 'type filter hook forward priority -300; policy accept;',
              rules: ['meta mark set 0', 'meta mark set iifname map @senders', 'oifname vmap @receivers'],
            },
          ],
          ...marks,
        ]),
      },
      {
        family: 'inet',
        sets: new Map([
          ...sets,
          ['egress', { kind: 'map', type: 'mark : verdict', elements: egress }],
          ['ingress', { kind: 'map', type: 'mark : verdict', elements: ingress }],
        ]),
        chains: new Map<string, Chain>([
          [
            'prerouting',
            {
              base: 'type filter hook prerouting priority -300; policy accept;',
              rules: zones.length === 0 ? [] : [`ct zone set iifname map { ${zones.join(', ')} }`],
            },
          ],
          [
            'forward',
            {
              base: 'type filter hook forward priority 0; policy accept;',
              rules: [
                'meta mark 0 accept',
                'ct state related accept',
                'ct state established ct direction reply accept',
                'icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept',
                'meta mark & 0xffff0000 vmap @egress',
                'meta mark & 0x0000ffff vmap @ingress',
              ],
            },
          ],
          ...chains,
        ]),
      },
    ],
  };
}
