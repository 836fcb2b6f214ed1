import { z } from 'zod';
import { storedTag } from '../models/rule.ts';

const listOf = <T extends z.ZodType<string, string>>(item: T) =>
  z
    .union([z.string().transform((s) => s.split(',')), z.array(z.string())])
    .pipe(z.array(item))
    .optional();
const flag = z.enum(['true', 'false']).optional();

export const listQuerySchema = z.strictObject({
  fields: listOf(z.enum(['parsed.action', 'parsed.ports', 'parsed.protocol', 'parsed.tags'])),
  owner_uuid: listOf(z.uuid()),
  vm: listOf(z.uuid()),
  ip: listOf(z.union([z.ipv4(), z.ipv6()])),
  subnet: listOf(z.union([z.cidrv4(), z.cidrv6()])),
  /** A tag's name, or `name=value`. */
  tag: listOf(z.string().min(1)),
  wildcard: listOf(z.enum(['any', 'vmall'])),
  protocol: z.enum(['tcp', 'udp', 'icmp', 'icmp6', 'ah', 'esp']).optional(),
  action: z.enum(['allow', 'block']).optional(),
  enabled: flag,
  log: flag,
  global: flag,
  limit: z.coerce.number().int().min(1).max(1000).default(1000),
  offset: z.coerce.number().int().min(0).default(0),
});

type ListQuery = z.output<typeof listQuerySchema>;

/** The LDAP filter that finds the rules which a list asks for. */
export function listFilter(query: ListQuery): string {
  const terms: string[] = [];
  for (const name of ['protocol', 'action', 'enabled', 'log'] as const) {
    const value = query[name];
    if (value !== undefined) terms.push(`(${name}=${value})`);
  }
  if (query.global === 'true') terms.push('(!(owner=*))');
  if (query.owner_uuid !== undefined) terms.push(any(query.owner_uuid.map((owner) => `(owner=${owner})`)));
  if (query.tag !== undefined) terms.push(any(query.tag.flatMap(tagTerms)));
  for (const name of ['vm', 'ip', 'subnet', 'wildcard'] as const) {
    const values = query[name];
    if (values !== undefined)
      terms.push(any(values.flatMap((value) => [`(from${name}s=${value})`, `(to${name}s=${value})`])));
  }
  return terms.length === 0 ? '(uuid=*)' : `(&${terms.join('')})`;
}

function any(terms: readonly string[]): string {
  return terms.length === 1 ? terms[0]! : `(|${terms.join('')})`;
}

/** A name finds every rule with the tag; `name=value` finds those with that value, and those with the name alone. */
function tagTerms(tag: string): string[] {
  const at = tag.indexOf('=');
  if (at < 0) return [`(fromtagkeys=${escapeValue(tag)})`, `(totagkeys=${escapeValue(tag)})`];
  const [key, value] = [tag.slice(0, at), tag.slice(at + 1)];
  const stored = [storedTag(key, ''), storedTag(key, value)].map(escapeValue);
  return stored.flatMap((s) => [`(fromtags=${s})`, `(totags=${s})`]);
}

/** Escapes a value for an LDAP filter (RFC 4515). */
function escapeValue(value: string): string {
  return value.replace(/[\\*()\0]/g, (c) => `\\${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
