import ipaddr from 'ipaddr.js';

type Parsed = [ipaddr.IPv4 | ipaddr.IPv6, number];

/** Peers of a rule by address family: single hosts, and subnets none of which holds another. */
export interface Peers {
  readonly hosts4: readonly string[];
  readonly hosts6: readonly string[];
  readonly nets4: readonly string[];
  readonly nets6: readonly string[];
}

function parse(text: string): Parsed | null {
  if (text.includes('/')) return ipaddr.isValidCIDR(text) ? ipaddr.parseCIDR(text) : null;
  // Short forms of IPv4 (`10.1`) mean different things to different programs: they are refused.
  if (ipaddr.IPv4.isValidFourPartDecimal(text)) return [ipaddr.IPv4.parse(text), 32];
  return ipaddr.IPv6.isValid(text) && !text.includes('%') ? [ipaddr.IPv6.parse(text), 128] : null;
}

/** Whether the text is an address or a subnet. */
export function isPeer(text: string): boolean {
  return parse(text) !== null;
}

/** Whether the text is a single address. */
export function isAddress(text: string): boolean {
  return !text.includes('/') && parse(text) !== null;
}

/** An address with its prefix length, or null. */
export function parseInterfaceAddress(text: string): { address: string; prefix: number; v6: boolean } | null {
  if (!text.includes('/')) return null;
  const parsed = parse(text);
  if (parsed === null) return null;
  return { address: parsed[0].toString(), prefix: parsed[1], v6: parsed[0].kind() === 'ipv6' };
}

/** The canonical form of an address (IPv6 compressed, lower case). */
export function canonicalAddress(text: string): string {
  return ipaddr.parse(text).toString();
}

function network([address, prefix]: Parsed): string {
  const v6 = address.kind() === 'ipv6';
  const bytes = address.toByteArray().map((byte, i) => {
    const bits = Math.min(8, Math.max(0, prefix - i * 8));
    return byte & (0xff << (8 - bits)) & 0xff;
  });
  const base = v6 ? new ipaddr.IPv6(bytes) : new ipaddr.IPv4(bytes);
  return `${base.toString()}/${prefix}`;
}

const holds = (outer: string, inner: string) => {
  const [address, prefix] = ipaddr.parseCIDR(outer);
  const [other, otherPrefix] = ipaddr.parseCIDR(inner);
  return prefix <= otherPrefix && other.kind() === address.kind() && other.match(address, prefix);
};

/** Sorts a rule's peers. Every one must be valid (`isPeer`). */
export function sortPeers(peers: readonly string[]): Peers {
  const sorted = {
    hosts4: new Set<string>(),
    hosts6: new Set<string>(),
    nets4: new Set<string>(),
    nets6: new Set<string>(),
  };
  for (const text of peers) {
    const parsed = parse(text);
    if (parsed === null) throw new Error(`not an address or subnet: ${text}`);
    const v6 = parsed[0].kind() === 'ipv6';
    if (parsed[1] === (v6 ? 128 : 32)) sorted[v6 ? 'hosts6' : 'hosts4'].add(parsed[0].toString());
    else sorted[v6 ? 'nets6' : 'nets4'].add(network(parsed));
  }
  const widest = (nets: Set<string>) =>
    [...nets].filter((net) => ![...nets].some((other) => other !== net && holds(other, net))).sort();
  return {
    hosts4: [...sorted.hosts4].sort(),
    hosts6: [...sorted.hosts6].sort(),
    nets4: widest(sorted.nets4),
    nets6: widest(sorted.nets6),
  };
}
