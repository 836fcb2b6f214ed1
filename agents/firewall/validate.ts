import type { FirewallRuleBody } from '../contract/desired.ts';
import { isPeer } from './addresses.ts';

/** Why a rule that has its schema's shape cannot be compiled, or null if it can. */
export function checkRule(rule: FirewallRuleBody): string | null {
  const inRange = (n: number, low: number, high: number) => n >= low && n <= high;
  if (rule.in === undefined && rule.out === undefined) return 'it applies to no VM';
  if (!/^[0-9a-f-]{36}$/.test(rule.rule_uuid)) return `not a UUID: ${rule.rule_uuid}`;
  for (const side of [rule.in, rule.out]) {
    if (side === undefined || side.peers === 'any') continue;
    const bad = side.peers.find((peer) => !isPeer(peer));
    if (bad !== undefined) return `not an address or subnet: ${bad}`;
  }
  if (rule.protocol === 'tcp' || rule.protocol === 'udp') {
    if (rule.ports === undefined) return `${rule.protocol} without ports`;
    if (rule.ports === 'all') return null;
    if (rule.ports.length === 0) return 'an empty list of ports';
    const bad = rule.ports.find((p) => !inRange(p.start, 0, 65535) || !inRange(p.end, p.start, 65535));
    return bad === undefined ? null : `not a range of ports: ${bad.start}-${bad.end}`;
  }
  if (rule.protocol === 'icmp' || rule.protocol === 'icmp6') {
    if (rule.types === undefined) return `${rule.protocol} without types`;
    if (rule.types === 'all') return null;
    if (rule.types.length === 0) return 'an empty list of types';
    const bad = rule.types.find((t) => !inRange(t.type, 0, 255) || !inRange(t.code ?? 0, 0, 255));
    return bad === undefined ? null : `not an ICMP type: ${bad.type} code ${bad.code}`;
  }
  return null;
}
