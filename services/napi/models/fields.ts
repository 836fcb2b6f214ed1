import { isIP } from 'node:net';
import { z } from 'zod';
import { canonicalAddress, parseSubnet, type Subnet } from './address.ts';
import { parseMac } from './mac.ts';

/**
 * The kinds of parameters that NAPI takes, with Triton's words for those that are wrong. Clients send them typed in
 * bodies and as text in queries.
 */

const uuidPattern = /^[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}$/;
const maxLength = 64;
const vlanMessage = 'VLAN ID must be a number between 0 and 4094, and not 1';
const arrayMessage = 'must be an array of strings';

export const flag = z.union(
  [z.boolean(), z.enum(['true', 'false']).transform((s) => s === 'true')],
  'must be a boolean value',
);

export const uuid = z.string('invalid UUID').regex(uuidPattern, 'invalid UUID');

/** A whole UUID, or its beginning and a `*`. */
export const uuidOrPrefix = z
  .string('must be a string')
  .refine((s) => uuidPattern.test(s) || /^[a-f0-9-]*\*$/.test(s), 'invalid UUID');

export const text = z
  .string('must be a string')
  .max(maxLength, { error: `must not be longer than ${maxLength} characters`, abort: true })
  .refine((s) => s.trim() !== '', 'must not be empty');

/** One of some words. */
export function choice<const W extends readonly string[]>(words: W) {
  return z.enum(words, `must be one of: ${words.map((word) => JSON.stringify(word)).join(', ')}`);
}

export const address = z
  .string('invalid IP address')
  .refine((s) => isIP(s) !== 0, { error: 'invalid IP address', abort: true })
  .transform(canonicalAddress);

export const ipv4 = address.refine((s) => isIP(s) === 4, 'Specified address must be IPv4');

/** A subnet, in its canonical spelling. */
export const subnet = z.string('must be a string').transform((given, context) => {
  const [start = '', bits = '', ...more] = given.split('/');
  const complain = (message: string) => {
    context.addIssue(message);
    return z.NEVER;
  };
  if (bits === '' || more.length > 0) return complain('Subnet must be in CIDR form');
  const family = isIP(start);
  if (family === 0) return complain('Subnet IP invalid');
  if (!/^\d+$/.test(bits) || Number(bits) < 8 || Number(bits) > (family === 4 ? 32 : 128))
    return complain('Subnet bits invalid');
  const canonical = `${canonicalAddress(start)}/${Number(bits)}`;
  return parsed(canonical) === undefined ? complain('invalid CIDR format') : canonical;
});

function parsed(given: string): Subnet | undefined {
  try {
    return parseSubnet(given);
  } catch {
    return undefined;
  }
}

export const vlanId = z
  .union([z.number(), z.string()], vlanMessage)
  .transform((given) => (given === '' ? Number.NaN : Number(given)))
  .refine((id) => Number.isInteger(id) && id >= 0 && id <= 4094, vlanMessage);

export function mtuFrom(least: number) {
  const message = `mtu must be a number between ${least} and 9000`;
  return z.number(message).int(message).min(least, message).max(9000, message);
}

/** A MAC, as a number. */
export const mac = z.string('invalid MAC address').transform((given, context) => {
  const number = parseMac(given);
  if (number === undefined) context.addIssue('invalid MAC address');
  return number ?? z.NEVER;
});

/** An array, or its items with commas between them. Those that are wrong are told apart, as `invalid`. */
function listOf<T>(item: z.ZodType<T>, complaint: (wrong: number) => string) {
  return z
    .union([z.string().transform(splitList), z.array(z.unknown())], arrayMessage)
    .transform((values, context): T[] => {
      const items = values.map((value) => ({ value, result: item.safeParse(value) }));
      const invalid = items.filter(({ result }) => !result.success).map(({ value }) => value);
      if (invalid.length > 0) {
        context.addIssue({ code: 'custom', message: complaint(invalid.length), params: { invalid } });
        return z.NEVER;
      }
      return items.flatMap(({ result }) => (result.success ? [result.data] : []));
    });
}

function splitList(given: string): string[] {
  return given
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '');
}

export const uuidList = listOf(uuid, () => 'invalid UUID');
export const addressList = listOf(address, (wrong) => (wrong === 1 ? 'invalid IP' : 'invalid IPs'));
export const textList = listOf(text, () => arrayMessage);

/** Names of the fields that an answer is to hold. */
export function fieldList(known: readonly string[]) {
  return listOf(choice(known), () => 'unknown field specified').refine(
    (fields) => fields.length > 0,
    'must not be an empty array',
  );
}

function whole(message: string, least: number, most: number) {
  return z
    .union([z.number(), z.string().regex(/^\d+$/).transform(Number)], message)
    .refine((n) => Number.isInteger(n) && n >= least && n <= most, message);
}

export const paging = {
  limit: whole(
    'invalid limit, must be an integer greater than 0 or less than or equal to 1000',
    1,
    1000,
  ).default(1000),
  offset: whole(
    'invalid value, offset must be an integer greater than or equal to 0',
    0,
    Number.MAX_SAFE_INTEGER,
  ).default(0),
};

/** An object with only the fields that were asked for. */
export function pickFields<T extends object>(object: T, fields: readonly string[] | undefined): Partial<T> {
  if (fields === undefined) return object;
  return Object.fromEntries(Object.entries(object).filter(([name]) => fields.includes(name))) as Partial<T>;
}
