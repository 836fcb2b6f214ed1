import { expect, test } from 'vitest';
import {
  addressToNumber,
  broadcastOf,
  canonicalAddress,
  contains,
  isPrivate,
  mappedAddress,
  netmaskOf,
  numberToAddress,
  overlaps,
  parseSubnet,
} from './address.ts';

test.each([
  ['0.0.0.0', 'ipv4', 0n],
  ['10.0.0.1', 'ipv4', 0x0a000001n],
  ['255.255.255.255', 'ipv4', 0xffffffffn],
  ['::', 'ipv6', 0n],
  ['::1', 'ipv6', 1n],
  ['fd00::ffff:ffff:ffff:ffff', 'ipv6', (0xfd00n << 112n) | 0xffffffffffffffffn],
] as const)('%s is a number, and the number is it', (text, family, number) => {
  expect(addressToNumber(text)).toBe(number);
  expect(numberToAddress(number, family)).toBe(text);
});

test.each(['', '10.0.0', '10.0.0.256', 'fd00:::1', 'asdf'])('"%s" is no address', (text) => {
  expect(() => canonicalAddress(`${text}/`)).toThrow();
});

test('an address has one spelling', () => {
  expect(canonicalAddress('FD00:0:0::0001')).toBe('fd00::1');
  expect(mappedAddress('10.0.0.1')).toBe('::ffff:10.0.0.1');
  expect(mappedAddress('FD00::0')).toBe('fd00::');
});

test.each([
  ['10.0.0.0/8', '10.255.255.255', '255.0.0.0'],
  ['192.168.1.128/25', '192.168.1.255', '255.255.255.128'],
  ['192.0.2.7/32', '192.0.2.7', '255.255.255.255'],
  ['0.0.0.0/0', '255.255.255.255', '0.0.0.0'],
])('%s ends at %s', (text, last, netmask) => {
  const subnet = parseSubnet(text);
  expect(numberToAddress(subnet.last, 'ipv4')).toBe(last);
  expect(broadcastOf(subnet)).toBe(last);
  expect(netmaskOf(subnet)).toBe(netmask);
});

test('IPv6 has neither broadcast nor netmask', () => {
  const subnet = parseSubnet('fd00::/64');
  expect(numberToAddress(subnet.last, 'ipv6')).toBe('fd00::ffff:ffff:ffff:ffff');
  expect([broadcastOf(subnet), netmaskOf(subnet)]).toEqual([undefined, undefined]);
});

test.each(['10.0.0.1/8', '192.168.1.129/25', 'fd00::1/64', '10.0.0.0', '10.0.0.0/33', 'x/8'])(
  '%s is no subnet',
  (text) => {
    expect(() => parseSubnet(text)).toThrow();
  },
);

test.each([
  ['10.0.0.0/24', '10.0.0.0', true],
  ['10.0.0.0/24', '10.0.0.255', true],
  ['10.0.0.0/24', '10.0.1.0', false],
  ['10.0.0.0/24', '9.255.255.255', false],
  // As numbers they would be inside.
  ['::/64', '10.0.0.1', false],
  ['10.0.0.0/8', '::a00:1', false],
])('%s holds %s: %s', (subnet, address, holds) => {
  expect(contains(parseSubnet(subnet), address)).toBe(holds);
});

test.each([
  ['10.0.0.0/24', '10.0.0.0/24', true],
  ['10.0.0.0/8', '10.200.0.0/16', true],
  ['10.0.0.0/25', '10.0.0.128/25', false],
  ['0.0.0.0/0', '::/0', false],
])('%s and %s overlap: %s', (a, b, overlap) => {
  expect(overlaps(parseSubnet(a), parseSubnet(b))).toBe(overlap);
  expect(overlaps(parseSubnet(b), parseSubnet(a))).toBe(overlap);
});

test.each([
  ['10.0.0.0/8', true],
  ['172.16.0.0/12', true],
  ['192.168.255.0/24', true],
  ['fd00::/8', true],
  ['8.0.0.0/6', false],
  ['172.32.0.0/16', false],
  ['192.0.2.0/24', false],
  ['fc00::/8', false],
  ['2001:db8::/32', false],
])('%s is private: %s', (text, own) => {
  expect(isPrivate(parseSubnet(text))).toBe(own);
});
