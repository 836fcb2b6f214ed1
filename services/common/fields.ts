import { isIP } from 'node:net';
import { z } from 'zod';

/**
 * The kinds of parameters that NAPI and FWAPI take, checked as Triton's restify-warden does and with its words. Clients
 * send them typed in bodies and as text in queries.
 */

const uuidPattern = /^[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}$/;
const maxLength = 64;
const arrayMessage = 'must be an array of strings';

export const flag = z.union(
  [z.boolean(), z.enum(['true', 'false']).transform((s) => s === 'true')],
  'must be a boolean value',
);

export function uuidOr(complaint: string) {
  return z.string(complaint).regex(uuidPattern, complaint);
}

export const uuid = uuidOr('invalid UUID');

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

/** An array, or its items with commas between them. Those that are wrong are told apart, as `invalid`. */
export function listOf<T>(item: z.ZodType<T>, complaint: (wrong: number) => string) {
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
export const textList = listOf(text, () => arrayMessage);

/** Addresses, each passed through `spelled`. */
export function addressListOf(spelled: (address: string) => string) {
  const address = z
    .string()
    .refine((given) => isIP(given) !== 0, { abort: true })
    .transform(spelled);
  return listOf(address, (wrong) => (wrong === 1 ? 'invalid IP' : 'invalid IPs'));
}

/** Names of the fields that an answer is to hold. */
export function fieldList<const W extends readonly string[]>(known: W) {
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
