import ipaddr from 'ipaddr.js';

/** Addresses as numbers: what is allocated, compared and counted. */

export type Family = 'ipv4' | 'ipv6';

export interface Subnet {
  readonly family: Family;
  readonly first: bigint;
  readonly last: bigint;
  readonly prefix: number;
}

/** @throws Error when it is no address */
export function addressToNumber(text: string): bigint {
  return ipaddr
    .parse(text)
    .toByteArray()
    .reduce((number, byte) => (number << 8n) | BigInt(byte), 0n);
}

export function numberToAddress(number: bigint, family: Family): string {
  const length = family === 'ipv4' ? 4 : 16;
  const bytes = Array.from({ length }, (_, i) => Number((number >> BigInt(8 * (length - 1 - i))) & 0xffn));
  return ipaddr.fromByteArray(bytes).toString();
}

/** An address in its one canonical spelling. */
export function canonicalAddress(text: string): string {
  return ipaddr.parse(text).toString();
}

export function familyOf(text: string): Family {
  return ipaddr.parse(text).kind();
}

/** The address that ends an IPv4 subnet and stands for all of it; IPv6 has none. */
export function broadcastOf(subnet: Subnet): string | undefined {
  return subnet.family === 'ipv4' ? numberToAddress(subnet.last, 'ipv4') : undefined;
}

/** @throws Error when it is no subnet, or has host bits set */
export function parseSubnet(text: string): Subnet {
  const [address, prefix] = ipaddr.parseCIDR(text);
  const bits = address.kind() === 'ipv4' ? 32 : 128;
  const first = addressToNumber(address.toString());
  const size = 1n << BigInt(bits - prefix);
  if (first % size !== 0n) throw new Error('has bits set outside of its prefix');
  return { family: address.kind(), first, last: first + size - 1n, prefix };
}

export function contains(subnet: Subnet, address: string): boolean {
  if (familyOf(address) !== subnet.family) return false;
  const number = addressToNumber(address);
  return number >= subnet.first && number <= subnet.last;
}

const rfc1918 = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16'].map(parseSubnet);
const uniqueLocal = parseSubnet('fd00::/8');

/** Whether a subnet lies in the ranges that anybody may use for themselves (RFC 1918, RFC 4193). */
export function isPrivate(subnet: Subnet): boolean {
  const ranges = subnet.family === 'ipv4' ? rfc1918 : [uniqueLocal];
  return ranges.some((range) => range.first <= subnet.first && subnet.last <= range.last);
}

export function overlaps(a: Subnet, b: Subnet): boolean {
  return a.family === b.family && a.first <= b.last && b.first <= a.last;
}

/** The netmask of an IPv4 subnet; IPv6 has none. */
export function netmaskOf(subnet: Subnet): string | undefined {
  return subnet.family === 'ipv4'
    ? ipaddr.IPv4.subnetMaskFromPrefixLength(subnet.prefix).toString()
    : undefined;
}

/** An address in IPv6 form (`::ffff:10.0.0.1` for IPv4), as portolan keys its rows. */
export function mappedAddress(text: string): string {
  return familyOf(text) === 'ipv4' ? `::ffff:${text}` : canonicalAddress(text);
}
