import { z } from 'zod';
import type { FindOptions } from '../../../kvstore/types.ts';
import { escapeTag } from './metadata.ts';
import { alias, brand, flag, number, uuid } from './params.ts';
import { presentedFields } from './vm.ts';

/** The most VMs that one answer holds, and how many it holds where nothing else is asked for. */
export const mostListed = 1000;

const states = [
  'active',
  'destroyed',
  'failed',
  'incomplete',
  'provisioning',
  'running',
  'stopped',
  'stopping',
] as const;

const sortKeys = [
  'uuid',
  'owner_uuid',
  'image_uuid',
  'billing_id',
  'server_uuid',
  'tags',
  'brand',
  'state',
  'alias',
  'max_physical_memory',
  'create_timestamp',
  'docker',
] as const;
type SortKey = (typeof sortKeys)[number];

interface Sort {
  readonly key: SortKey;
  readonly order: 'ASC' | 'DESC';
}

/** `key` or `key.asc`; descending where nothing is said. */
const sort = z.string().transform((given, context): Sort => {
  const [key, order = 'DESC', ...more] = given.split('.');
  const upper = order.toUpperCase();
  const known = sortKeys.find((name) => name === key);
  if (known === undefined || more.length > 0 || (upper !== 'ASC' && upper !== 'DESC')) {
    context.addIssue({ code: 'custom', message: `Invalid sort param: ${given}`, input: given });
    return z.NEVER;
  }
  return { key: known, order: upper };
});

type Marker = Readonly<Record<string, string | number>>;

const markerSchema = z.record(z.string(), z.union([z.string(), z.number()]));

function readMarker(text: string): Marker | undefined {
  try {
    return markerSchema.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}

const marker = z.string().transform((given, context): Marker => {
  const parsed = readMarker(given);
  if (parsed !== undefined) return parsed;
  context.addIssue({
    code: 'custom',
    message: `Invalid marker: ${given}. It must be a JSON object`,
    input: given,
  });
  return z.NEVER;
});

const timestamp = z.string().transform((given, context): number => {
  const time = /^\d+$/.test(given) ? Number(given) : Date.parse(given);
  if (!Number.isNaN(time)) return time;
  context.addIssue({ code: 'custom', message: `Invalid timestamp: ${given}`, input: given });
  return z.NEVER;
});

const csv = z.string().transform((given) => given.split(','));

export const fieldsSchema = csv.pipe(
  z.array(
    z.string().refine((field) => field === '*' || presentedFields.has(field), { error: 'Invalid values' }),
  ),
);

const known = {
  alias: alias.optional(),
  billing_id: uuid.optional(),
  brand: brand.optional(),
  create_timestamp: timestamp.optional(),
  docker: flag.optional(),
  fields: fieldsSchema.optional(),
  image_uuid: uuid.optional(),
  limit: number(1, mostListed).optional(),
  marker: marker.optional(),
  max_physical_memory: number().optional(),
  offset: number().optional(),
  owner_uuid: uuid.optional(),
  package_name: z.string().optional(),
  package_version: z.string().optional(),
  ram: number().optional(),
  server_uuid: uuid.optional(),
  sort: sort.optional(),
  state: z.enum(states, { error: `Must be one of: ${states.join(', ')}` }).optional(),
  uuid: uuid.optional(),
  uuids: csv.pipe(z.array(uuid)).optional(),
};

const prefixes = ['tag.', 'internal_metadata.'] as const;

/** The query of GET /vms; besides these fields `tag.<key>` and `internal_metadata.<key>`, and nothing else. */
export const listSchema = z.looseObject(known).superRefine((given, context) => {
  const refuse = (field: string, message: string) =>
    context.addIssue({ code: 'custom', path: [field], message, input: given[field] });
  for (const [name, value] of Object.entries(given)) {
    if (name in known) continue;
    const prefix = prefixes.find((p) => name.startsWith(p) && name.length > p.length);
    if (prefix === undefined) refuse(name, 'Invalid parameter');
    else if (typeof value !== 'string' || value === '') refuse(name, `Invalid ${prefix.slice(0, -1)} value`);
  }
  if (given.offset !== undefined && given.marker !== undefined) {
    refuse('marker', 'offset and marker cannot be used at the same time');
  }
  if (given.marker !== undefined) checkMarker(given.marker, given.sort, (why) => refuse('marker', why));
});
export type ListParams = z.output<typeof listSchema>;

function checkMarker(given: Marker, by: Sort | undefined, refuse: (why: string) => void): void {
  const prefix = `Invalid marker: ${JSON.stringify(given)}. `;
  const key = by?.key ?? 'uuid';
  if (given.uuid === undefined) {
    refuse(
      `${prefix}A marker needs to have a uuid property from which a strict total order can be established`,
    );
  }
  if (given[key] === undefined)
    refuse(`${prefix}All sort fields must be present in marker. Sort fields: ${key}.`);
  if (Object.keys(given).some((name) => name !== 'uuid' && name !== key)) {
    refuse(
      `${prefix}All marker keys except uuid must be present in the sort parameter. Sort fields: ${by?.key}.`,
    );
  }
}

/** Text as a filter's value: what has a meaning in filters stands for itself. */
export function escapeFilter(text: string): string {
  return text.replace(/[\\*()\0]/g, (c) => `\\${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

function is(field: string, value: string | number | boolean): string {
  return `(${field}=${escapeFilter(String(value))})`;
}

/** The VMs that match, without regard to the page. */
export function listFilter(params: ListParams): string {
  const parts: string[] = [];
  const equal = [
    'owner_uuid',
    'image_uuid',
    'server_uuid',
    'billing_id',
    'package_name',
    'package_version',
    'brand',
    'create_timestamp',
  ] as const;
  for (const field of equal) {
    const value = params[field];
    if (value !== undefined) parts.push(is(field, value));
  }
  if (params.uuid !== undefined) parts.push(is('uuid', params.uuid));
  else if (params.uuids !== undefined) parts.push(`(|${params.uuids.map((u) => is('uuid', u)).join('')})`);
  if (params.docker !== undefined) parts.push(params.docker ? '(docker=true)' : '(!(docker=true))');
  if (params.alias !== undefined) parts.push(`(alias=${escapeFilter(params.alias)}*)`);
  const ram = params.ram ?? params.max_physical_memory;
  if (ram !== undefined) parts.push(is('max_physical_memory', ram));
  if (params.state === 'active') parts.push('(!(state=destroyed))', '(!(state=failed))');
  else if (params.state !== undefined) parts.push(is('state', params.state));
  for (const [name, value] of Object.entries(params)) {
    if (typeof value !== 'string') continue;
    if (name.startsWith('tag.')) parts.push(tagFilter(name.slice('tag.'.length), value));
    else if (name.startsWith('internal_metadata.')) {
      const key = name.slice('internal_metadata.'.length);
      parts.push(is('internal_metadata_search_array', `${key}=${value}`));
    }
  }
  return parts.length === 0 ? '(uuid=*)' : `(&${parts.join('')})`;
}

/** `*` is any value; `true` and `1` are the boolean and the number as well as the text. */
function tagFilter(key: string, value: string): string {
  const start = `*-${escapeFilter(escapeTag(key))}=`;
  if (value === '*') return `(tags=${start}*)`;
  const forms = [escapeTag(value)];
  if (value === 'true' || value === 'false') forms.push(`%b{${value}}`);
  else if (!Number.isNaN(Number(value))) forms.push(escapeTag(`%n{${value}}`));
  return `(|${forms.map((form) => `(tags=${start}${escapeFilter(form)}-*)`).join('')})`;
}

/** The page that is asked for: the filter of what comes after the marker, and the options of the find. */
export function listPage(params: ListParams): { after: string | undefined; options: FindOptions } {
  const by = params.sort ?? { key: 'uuid', order: 'DESC' };
  const order = by.order;
  const keys = by.key === 'uuid' ? ['uuid'] : [by.key, 'uuid'];
  const options: FindOptions = {
    limit: params.limit ?? mostListed,
    offset: params.offset ?? 0,
    sort: keys.map((attribute) => ({ attribute, order })),
  };
  return { after: params.marker === undefined ? undefined : afterMarker(params.marker, by), options };
}

function afterMarker(given: Marker, { key, order }: Sort): string {
  const upTo = order === 'DESC' ? '<=' : '>=';
  const value = escapeFilter(String(key === 'create_timestamp' ? timeOf(given[key]) : given[key]));
  const past = escapeFilter(String(given.uuid));
  const before = order === 'DESC' ? '>=' : '<=';
  return key === 'uuid'
    ? `(&(uuid${upTo}${past})(!(uuid=${past})))`
    : `(&(${key}${upTo}${value})(!(&(${key}=${value})(uuid${before}${past}))))`;
}

function timeOf(given: string | number | undefined): number {
  return typeof given === 'number' ? given : Date.parse(given ?? '');
}
