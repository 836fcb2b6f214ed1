import ipaddr from 'ipaddr.js';
import type { IndexTypeInfo } from '../index-types.ts';
import { encodeScalar } from '../values.ts';
import type { Comparison, Extensible, Filter, Leaf, Pattern } from './ast.ts';

/** The types of the fields that have a usable index; any other field is taken as it is. */
export type FieldTypes = (attribute: string) => IndexTypeInfo | undefined;

type Fields = Readonly<Record<string, unknown>>;
type Test = (value: unknown) => boolean;

/**
 * Evaluates a filter in memory: for fields without an index, as Moray does it. Such a field equals only a string, and
 * `>=` and `<=` compare as JavaScript does. Attributes are looked up exactly, then in any case. Of an array, one
 * element must match. What only PostgreSQL can decide (the rules on ranges) it has decided: it counts as true.
 */
export function matches(filter: Filter, object: Fields, types: FieldTypes): boolean {
  switch (filter.type) {
    case 'and':
      return filter.filters.every((f) => matches(f, object, types));
    case 'or':
      return filter.filters.some((f) => matches(f, object, types));
    case 'not':
      return !matches(filter.filter, object, types);
    case 'present':
      return (fieldOf(object, filter.attribute) ?? null) !== null;
    default: {
      const value = fieldOf(object, filter.attribute);
      const test = testOf(filter, types(filter.attribute));
      return Array.isArray(value) ? value.some(test) : test(value);
    }
  }
}

function fieldOf(object: Fields, attribute: string): unknown {
  if (Object.hasOwn(object, attribute)) return object[attribute];
  const lower = attribute.toLowerCase();
  const name = Object.keys(object).find((k) => k.toLowerCase() === lower);
  return name === undefined ? undefined : object[name];
}

function testOf(leaf: Exclude<Leaf, { type: 'present' }>, type: IndexTypeInfo | undefined): Test {
  switch (leaf.type) {
    case 'equal':
    case 'ge':
    case 'le':
      return type === undefined ? untyped(leaf) : typed(leaf, type);
    case 'approx':
      return () => false;
    case 'substring':
      return (v) => v !== undefined && typeof v !== 'object' && fits(String(v), leaf.pattern);
    case 'ext':
      return caseless(leaf);
  }
}

function caseless({ rule, value, pattern }: Extensible): Test {
  if (rule !== 'caseIgnoreMatch' && rule !== 'caseIgnoreSubstringsMatch') return () => true;
  if (pattern === undefined || rule === 'caseIgnoreMatch') {
    const lower = value.toLowerCase();
    return (v) => typeof v === 'string' && v.toLowerCase() === lower;
  }
  const lower = {
    initial: pattern.initial.toLowerCase(),
    any: pattern.any.map((part) => part.toLowerCase()),
    final: pattern.final.toLowerCase(),
  };
  return (v) => typeof v === 'string' && fits(v.toLowerCase(), lower);
}

/** Takes the leftmost place for each part: if any placing fits, this one does. */
function fits(text: string, { initial, any, final }: Pattern): boolean {
  if (!text.startsWith(initial)) return false;
  let from = initial.length;
  for (const part of any) {
    const at = text.indexOf(part, from);
    if (at === -1) return false;
    from = at + part.length;
  }
  return text.length - final.length >= from && text.endsWith(final);
}

function untyped({ type, value: wanted }: Comparison): Test {
  if (type === 'equal') return (v) => v === wanted;
  return (v) => {
    if (typeof v === 'string') return type === 'ge' ? v >= wanted : v <= wanted;
    if (typeof v !== 'number' && typeof v !== 'boolean') return false;
    return type === 'ge' ? Number(v) >= Number(wanted) : Number(v) <= Number(wanted);
  };
}

function typed({ type, value: wanted }: Comparison, info: IndexTypeInfo): Test {
  const right = comparable(wanted, info);
  return (v) => {
    const left = comparable(v, info);
    if (left === null || right === null) return false;
    if (type === 'equal') return left === right;
    return type === 'ge' ? left >= right : left <= right;
  };
}

/** A form in which two values of one type compare as PostgreSQL compares them (ranges: only for equality). */
function comparable(value: unknown, { scalar }: IndexTypeInfo): string | number | null {
  if (value === undefined || value === null) return null;
  let text: string | null;
  try {
    text = encodeScalar(scalar, value).text;
  } catch {
    return null;
  }
  if (text === null) return null;
  switch (scalar) {
    case 'string':
      // Strings of bytes are in the order of UTF-8, as in PostgreSQL; UTF-16 has another.
      return Buffer.from(text).toString('latin1');
    case 'number':
      return Number(text);
    case 'ip':
      return addressBytes(text);
    case 'subnet': {
      const [address = '', length = ''] = text.split('/');
      return `${addressBytes(address)}/${length.padStart(3, '0')}`;
    }
    default:
      return text;
  }
}

function addressBytes(text: string): string {
  const address = ipaddr.parse(text);
  return `${address.kind()}:${Buffer.from(address.toByteArray()).toString('hex')}`;
}
