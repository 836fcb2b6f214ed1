import { z } from 'zod';
import {
  addressListOf,
  choice,
  fieldList,
  flag,
  listOf,
  paging,
  textList,
  uuidList,
} from '../../common/fields.ts';
import { either, escapeValue, oneOf } from '../../common/filter.ts';
import { parsedFields, storedTag } from '../models/rule.ts';

const subnet = z.union([z.cidrv4(), z.cidrv6()]);

export const listQuerySchema = z.strictObject({
  ...paging,
  fields: fieldList(parsedFields).optional(),
  owner_uuid: uuidList.optional(),
  vm: uuidList.optional(),
  ip: addressListOf((address) => address).optional(),
  subnet: listOf(subnet, () => 'Subnet must be in CIDR form').optional(),
  /** A tag's name, or `name=value`. */
  tag: textList.optional(),
  wildcard: listOf(choice(['any', 'vmall']), () => 'must be array of strings').optional(),
  protocol: choice(['ah', 'esp', 'tcp', 'udp', 'icmp', 'icmp6']).optional(),
  action: z.enum(['allow', 'block'], 'action must be "block" or "allow"').optional(),
  enabled: flag.optional(),
  log: flag.optional(),
  global: flag.optional(),
});

type ListQuery = z.output<typeof listQuerySchema>;

/** The LDAP filter that finds the rules which a list asks for. */
export function listFilter(query: ListQuery): string {
  const terms: string[] = [];
  for (const name of ['protocol', 'action', 'enabled', 'log'] as const) {
    const value = query[name];
    if (value !== undefined) terms.push(`(${name}=${value})`);
  }
  if (query.global === true) terms.push('(!(owner=*))');
  if (query.owner_uuid !== undefined) terms.push(oneOf('owner', query.owner_uuid));
  if (query.tag !== undefined) terms.push(either(query.tag.flatMap(tagTerms)));
  for (const name of ['vm', 'ip', 'subnet', 'wildcard'] as const) {
    const values = (query[name] ?? []).map(escapeValue);
    terms.push(either(values.flatMap((value) => [`(from${name}s=${value})`, `(to${name}s=${value})`])));
  }
  return `(&(uuid=*)${terms.join('')})`;
}

/** A name finds every rule with the tag; `name=value` finds those with that value, and those with the name alone. */
function tagTerms(tag: string): string[] {
  const at = tag.indexOf('=');
  if (at < 0) return [`(fromtagkeys=${escapeValue(tag)})`, `(totagkeys=${escapeValue(tag)})`];
  const [key, value] = [tag.slice(0, at), tag.slice(at + 1)];
  const stored = [storedTag(key, ''), storedTag(key, value)].map(escapeValue);
  return stored.flatMap((s) => [`(fromtags=${s})`, `(totags=${s})`]);
}
