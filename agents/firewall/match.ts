import type { FirewallRuleBody } from '../contract/desired.ts';
import type { Peers } from './addresses.ts';
import type { Protocol } from './closed.ts';

/** nftables' match expressions for a rule of the desired state. */

type Family = 4 | 6;

/** Matches all of a protocol, in every family that it has. */
export function protocolMatches(protocol: Protocol): string[] {
  switch (protocol) {
    case 'tcp':
    case 'udp':
    case 'esp':
      return [`meta l4proto ${protocol}`];
    case 'icmp':
      return ['meta nfproto ipv4 meta l4proto icmp'];
    case 'icmp6':
      return ['meta nfproto ipv6 meta l4proto ipv6-icmp'];
    case 'ah':
      // To nftables IPv6's authentication header is not the transport protocol but an extension before it.
      return ['meta nfproto ipv4 meta l4proto ah', 'ip6 nexthdr ah'];
  }
}

/** Ranges sorted, with those that meet or overlap joined: a set of nftables holds no two that overlap. */
function joinRanges(ranges: readonly { start: number; end: number }[]): string[] {
  const joined: { start: number; end: number }[] = [];
  for (const range of [...ranges].sort((a, b) => a.start - b.start)) {
    const last = joined.at(-1);
    if (last !== undefined && range.start <= last.end + 1) last.end = Math.max(last.end, range.end);
    else joined.push({ ...range });
  }
  return joined.map(({ start, end }) => (start === end ? `${start}` : `${start}-${end}`));
}

function icmpMatches(
  word: 'icmp' | 'icmpv6',
  types: readonly { type: number; code?: number | undefined }[],
): string[] {
  const whole = [...new Set(types.filter((t) => t.code === undefined).map((t) => t.type))].sort(
    (a, b) => a - b,
  );
  const coded = types.filter((t) => t.code !== undefined && !whole.includes(t.type));
  const lines = whole.length === 0 ? [] : [`${word} type { ${whole.join(', ')} }`];
  return [...lines, ...new Set(coded.map((t) => `${word} type ${t.type} ${word} code ${t.code}`))];
}

/** What a rule matches above the address. */
function payload(rule: FirewallRuleBody): string[] {
  const { protocol } = rule;
  if ((protocol === 'tcp' || protocol === 'udp') && Array.isArray(rule.ports)) {
    return [`${protocol} dport { ${joinRanges(rule.ports).join(', ')} }`];
  }
  if ((protocol === 'icmp' || protocol === 'icmp6') && Array.isArray(rule.types)) {
    return icmpMatches(protocol === 'icmp' ? 'icmp' : 'icmpv6', rule.types);
  }
  return protocolMatches(protocol);
}

const familyOf = (match: string): Family | null => {
  if (match.startsWith('icmp ') || match.startsWith('meta nfproto ipv4')) return 4;
  if (match.startsWith('icmpv6 ') || match.startsWith('meta nfproto ipv6') || match.startsWith('ip6 '))
    return 6;
  return null;
};

/**
 * The expressions that, or-ed, match what a rule speaks of: in direction `in` the peer is the source, in `out` the destination.
 * @param hostSet names the set that holds the peers of one family that are single hosts.
 */
export function matches(
  rule: FirewallRuleBody,
  direction: 'in' | 'out',
  peers: Peers | 'any',
  hostSet: (family: Family) => string,
): string[] {
  const what = payload(rule);
  if (peers === 'any') return what;
  const end = direction === 'in' ? 'saddr' : 'daddr';
  const who: [Family, string][] = [];
  if (peers.hosts4.length > 0) who.push([4, `ip ${end} @${hostSet(4)}`]);
  if (peers.nets4.length > 0) who.push([4, `ip ${end} { ${peers.nets4.join(', ')} }`]);
  if (peers.hosts6.length > 0) who.push([6, `ip6 ${end} @${hostSet(6)}`]);
  if (peers.nets6.length > 0) who.push([6, `ip6 ${end} { ${peers.nets6.join(', ')} }`]);
  return who.flatMap(([family, address]) =>
    what.filter((match) => (familyOf(match) ?? family) === family).map((match) => `${address} ${match}`),
  );
}
