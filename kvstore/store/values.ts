import { isIPv4, isIPv6 } from 'node:net';
import ipaddr from 'ipaddr.js';
import type { IndexTypeInfo, ScalarType } from './index-types.ts';

/** A value that does not have the type of its index. */
export class TypeMismatch extends Error {}

/** A field's value in PostgreSQL's text form for its column (null: NULL), and as reads are to show it. */
export interface Encoded {
  readonly text: string | null;
  readonly json: unknown;
}

const iso8601 = /^(?:[-+]00)?\d+-\d+-\d+T\d+:\d+:\d+(?:\.\d+)?Z$/;
const dateRange = /^([([])([\d:.TZ+-]+)?,([\d:.TZ+-]+)?([)\]])$/;
const numRange = /^[([](-?\d+(?:\.\d+)?)?,(-?\d+(?:\.\d+)?)?[)\]]$/;
const uuid = /^[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}$/;
const macAddress = /^[a-f0-9]{1,2}([:-][a-f0-9]{1,2}){5}$/i;

function date(value: unknown): string {
  const parsed = typeof value === 'string' && iso8601.test(value) ? new Date(value) : undefined;
  if (parsed === undefined || Number.isNaN(parsed.getTime()))
    throw new TypeMismatch('not an ISO 8601 time in UTC');
  return parsed.toISOString();
}

function range(value: unknown): string {
  const match = typeof value === 'string' ? dateRange.exec(value) : null;
  if (match === null) throw new TypeMismatch('not a range of dates');
  const [, open, lower, upper, close] = match;
  return `${open}${lower ? date(lower) : ''},${upper ? date(upper) : ''}${close}`;
}

function mac(value: unknown): string {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < 2 ** 48) {
    return value
      .toString(16)
      .padStart(12, '0')
      .replace(/..(?=.)/g, '$&:');
  }
  if (typeof value !== 'string' || !macAddress.test(value)) throw new TypeMismatch('not a MAC address');
  return value
    .toLowerCase()
    .split(/[:-]/)
    .map((octet) => octet.padStart(2, '0'))
    .join(':');
}

function ip(value: unknown): string {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < 2 ** 32) {
    return [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255].join('.');
  }
  if (typeof value !== 'string' || value.includes('%') || !(isIPv4(value) || isIPv6(value))) {
    throw new TypeMismatch('not an IP address');
  }
  return addressText(ipaddr.parse(value));
}

/** As PostgreSQL writes it. An IPv4-mapped address is IPv6, and is in no IPv4 network. */
function addressText(address: ipaddr.IPv4 | ipaddr.IPv6): string {
  const mapped = address instanceof ipaddr.IPv6 && address.isIPv4MappedAddress();
  return mapped ? `::ffff:${address.toIPv4Address().toString()}` : address.toString();
}

function subnet(value: unknown): string {
  const match = typeof value === 'string' ? /^([^/]+)\/(\d{1,3})$/.exec(value) : null;
  const [, address, length] = match ?? [];
  if (address === undefined || length === undefined) throw new TypeMismatch('not a subnet');
  if (address.includes('%') || Number(length) > (isIPv4(address) ? 32 : isIPv6(address) ? 128 : -1)) {
    throw new TypeMismatch('not a subnet');
  }
  const family = isIPv4(address) ? ipaddr.IPv4 : ipaddr.IPv6;
  return `${addressText(family.networkAddressFromCIDR(`${address}/${length}`))}/${Number(length)}`;
}

function number(value: unknown): Encoded {
  const parsed = typeof value === 'number' ? value : Number.parseFloat(String(value));
  return Number.isFinite(parsed) ? { text: String(parsed), json: parsed } : { text: null, json: null };
}

function boolean(value: unknown): Encoded {
  const text = String(value).toLowerCase();
  if (text !== 'true' && text !== 'false') throw new TypeMismatch('not a boolean');
  return { text, json: text === 'true' };
}

function same(text: string): Encoded {
  return { text, json: text };
}

/**
 * Encodes one value for a column (or an element) of `type`, with Moray's tolerance: strings take anything, a number
 * that does not parse is NULL.
 * @throws TypeMismatch
 */
export function encodeScalar(type: ScalarType, value: unknown): Encoded {
  switch (type) {
    case 'string':
      return { text: String(value), json: typeof value === 'object' ? value : String(value) };
    case 'number':
      return number(value);
    case 'boolean':
      return boolean(value);
    case 'date':
      return same(date(value));
    case 'daterange':
      return same(range(value));
    case 'mac':
      return same(mac(value));
    case 'ip':
      return same(ip(value));
    case 'subnet':
      return same(subnet(value));
    case 'numrange':
      if (typeof value !== 'string' || !numRange.test(value))
        throw new TypeMismatch('not a range of numbers');
      return same(value);
    case 'uuid':
      if (typeof value !== 'string' || !uuid.test(value)) throw new TypeMismatch('not a UUID');
      return same(value);
  }
}

function arrayLiteral(elements: readonly (string | null)[]): string {
  const parts = elements.map((e) => (e === null ? 'NULL' : `"${e.replace(/["\\]/g, '\\$&')}"`));
  return `{${parts.join(',')}}`;
}

/**
 * Encodes a field for its column. An array in a field of a scalar type is indexed by its string form, and read back
 * as it was written.
 * @throws TypeMismatch
 */
export function encodeField(type: IndexTypeInfo, value: unknown): Encoded {
  if (value === undefined || value === null) return { text: null, json: value };
  const encoded = type.array ? encodeArray(type.scalar, value) : encodeScalar(type.scalar, value);
  if (encoded.text?.includes('\0')) throw new TypeMismatch('it contains NUL');
  return Array.isArray(value) && !type.array ? { text: encoded.text, json: value } : encoded;
}

function encodeArray(scalar: ScalarType, value: unknown): Encoded {
  const elements = (Array.isArray(value) ? value : [value]).map((e) => encodeScalar(scalar, e));
  return { text: arrayLiteral(elements.map((e) => e.text)), json: elements.map((e) => e.json) };
}
