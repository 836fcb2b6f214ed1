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

export function overlaps(a: Subnet, b: Subnet): boolean {
  return a.family === b.family && a.first <= b.last && b.first <= a.last;
}

export function netmaskOf(subnet: Subnet): string {
  return subnet.family === 'ipv4'
    ? ipaddr.IPv4.subnetMaskFromPrefixLength(subnet.prefix).toString()
    : ipaddr.IPv6.subnetMaskFromPrefixLength(subnet.prefix).toString();
}

/** An address in IPv6 form (`::ffff:10.0.0.1` for IPv4), as portolan keys its rows. */
export function mappedAddress(text: string): string {
  return familyOf(text) === 'ipv4' ? `::ffff:${text}` : canonicalAddress(text);
}
