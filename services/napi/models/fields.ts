import { z } from 'zod';
import { canonicalAddress } from './address.ts';
import { parseMac } from './mac.ts';

/** The kinds of parameters that NAPI takes. Clients send them typed in bodies and as text in queries. */

export const flag = z.union([z.boolean(), z.enum(['true', 'false']).transform((s) => s === 'true')]);
export const address = z.union([z.ipv4(), z.ipv6()]).transform(canonicalAddress);
export const subnet = z.union([z.cidrv4(), z.cidrv6()]);
export const vlanId = z.coerce
  .number()
  .int()
  .min(0)
  .max(4094)
  .refine((id) => id !== 1, 'VLAN 1 is reserved');
export const mac = z.string().transform((text, context) => {
  const number = parseMac(text);
  if (number === undefined) context.addIssue('must be a MAC address');
  return number ?? z.NEVER;
});

/** A comma-separated list, or an array. */
export function listOf<T extends z.ZodType>(item: T) {
  const parts = z.union([z.string().transform((s) => s.split(',').filter(Boolean)), z.array(z.unknown())]);
  return parts.transform((values, context): z.output<T>[] => {
    const parsed = z.array(item).safeParse(values);
    if (parsed.success) return parsed.data;
    for (const issue of parsed.error.issues) context.addIssue(issue.message);
    return z.NEVER;
  });
}

export const paging = {
  limit: z.coerce.number().int().min(1).max(1000).default(1000),
  offset: z.coerce.number().int().min(0).default(0),
};

/** An object with only the fields that were asked for. */
export function pickFields<T extends object>(object: T, fields: readonly string[] | undefined): Partial<T> {
  if (fields === undefined) return object;
  return Object.fromEntries(Object.entries(object).filter(([name]) => fields.includes(name))) as Partial<T>;
}
