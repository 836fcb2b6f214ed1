import { z } from 'zod';
import { CongerError } from '../../runtime/errors.ts';
import { positionPattern } from '../position.ts';
import { indexTypeNames } from './index-types.ts';
import { isObject, quick } from './quick-arguments.ts';

/** What each call takes, and the words in which Moray says that it was given something else. */

const text = z.string().min(1);
const integer = z.int().min(0);
/** Passed on as it is, without a copy. */
const object = z.custom<Readonly<Record<string, unknown>>>(isObject, 'should be object');
/** PostgreSQL and timers know no more; it is three weeks. */
const milliseconds = integer.transform((ms) => Math.min(ms, 2 ** 31 - 1));
const digits = z.union([integer, z.string().regex(/^[0-9]+$/)]);

const sort = z.looseObject({
  attribute: z.string().optional(),
  order: z.enum(['ASC', 'asc', 'DESC', 'desc']).optional(),
});

const options = z.looseObject({
  timeout: milliseconds.optional(),
  req_id: z.guid().optional(),
  traceparent: z.string().max(64).optional(),
  etag: z.string().nullable().optional(),
  _etag: z.string().nullable().optional(),
  noBucketCache: z.boolean().optional(),
  noLimit: z.boolean().optional(),
  limit: digits.optional(),
  offset: digits.optional(),
  sort: z.union([z.array(sort), sort]).optional(),
  no_count: z.boolean().optional(),
  sql_only: z.boolean().optional(),
  requireIndexes: z.boolean().optional(),
  requireOnlineReindexing: z.boolean().optional(),
  no_reindex: z.boolean().optional(),
  deep: z.boolean().optional(),
  snapshot: z.boolean().optional(),
  standby: z.boolean().optional(),
  minPosition: z.string().regex(positionPattern, 'should be a position (X/Y)').optional(),
  position: z.boolean().optional(),
  headers: object.optional(),
  internalOpts: z.looseObject({ sendHandledOptions: z.boolean().optional() }).optional(),
});

const request = z.looseObject({
  operation: z.enum(['put', 'delete', 'update', 'deleteMany']).optional(),
  bucket: z.string(),
  key: z.string().optional(),
  filter: z.string().optional(),
  fields: object.optional(),
  value: object.optional(),
  options: options.optional(),
});

export const argument = {
  string: { schema: text, is: 'a nonempty string' },
  integer: { schema: integer, is: 'a nonnegative integer' },
  object: { schema: object, is: 'an object' },
  array: { schema: z.array(z.unknown()), is: 'an array' },
  options: { schema: options, is: 'a valid options object' },
  requests: { schema: z.array(request), is: 'an array of valid request objects' },
} as const;

export type CallOptions = z.output<typeof options>;
export type BatchRequest = z.output<typeof request>;

/** A bucket's configuration; `pre` and `post` are looked at later. */
export const bucketConfig = z.looseObject({
  index: z
    .record(z.string(), z.strictObject({ type: z.enum(indexTypeNames), unique: z.boolean().optional() }))
    .default({}),
  pre: z.array(z.unknown()).default([]),
  post: z.array(z.unknown()).default([]),
  options: z
    .looseObject({
      version: integer.default(0),
      partition: z.string().optional(),
      feed: z.boolean().optional(),
      guaranteeOrder: z.boolean().optional(),
      syncUpdates: z.boolean().optional(),
    })
    .default({ version: 0 }),
});

type Kind = keyof typeof argument;
type Output<K extends Kind> = z.output<(typeof argument)[K]['schema']>;
type Outputs<S extends readonly (readonly [string, Kind])[]> = {
  -readonly [I in keyof S]: S[I] extends readonly [string, infer K extends Kind] ? Output<K> : never;
};

/**
 * Checks a call's arguments against its signature.
 * @throws InvocationError
 */
export function parseArguments<const S extends readonly (readonly [name: string, kind: Kind])[]>(
  method: string,
  args: readonly unknown[],
  signature: S,
): Outputs<S> {
  if (args.length !== signature.length) {
    const s = signature.length === 1 ? '' : 's';
    throw new CongerError('InvocationError', `${method} expects ${signature.length} argument${s}`);
  }
  return signature.map(([name, kind], i) => {
    if (quick[kind](args[i])) return args[i];
    const { schema, is } = argument[kind];
    const parsed = schema.safeParse(args[i]);
    if (parsed.success) return parsed.data;
    const detail = describeIssues(parsed.error, name, args[i]);
    throw new CongerError(
      'InvocationError',
      `${method} expects "${name}" (args[${i}]) to be ${is}: ${detail}`,
    );
  }) as Outputs<S>;
}

/** Issues in the form `name.path should be ...`, as Moray's validator puts them. */
export function describeIssues(error: z.ZodError, name: string, input: unknown): string {
  return error.issues.map((issue) => describe(issue, name, input)).join(', ');
}

function describe(issue: z.core.$ZodIssue, name: string, input: unknown): string {
  // Of a union, what is wrong inside its last member says more than that nothing fits.
  const inner = issue.code === 'invalid_union' ? issue.errors.at(-1)?.[0] : undefined;
  if (inner !== undefined && inner.path.length > 0) {
    return describe({ ...inner, path: [...issue.path, ...inner.path] }, name, input);
  }
  const parent = issue.path.slice(0, -1);
  const last = issue.path.at(-1);
  if (issue.code !== 'unrecognized_keys' && last !== undefined && at(input, issue.path) === undefined) {
    return `${place(name, parent)} should have required property '${String(last)}'`;
  }
  return `${place(name, issue.path)} ${expectation(issue)}`;
}

/** zod's names of types that are not those of JSON's schemas. All numbers here are integers. */
const expectedNames: ReadonlyMap<string, string> = new Map([
  ['record', 'object'],
  ['int', 'integer'],
  ['number', 'integer'],
]);

function expectation(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return `should be ${expectedNames.get(issue.expected) ?? issue.expected}`;
    case 'too_small':
      return issue.origin === 'string'
        ? `should NOT be shorter than ${issue.minimum} characters`
        : `should be >= ${issue.minimum}`;
    case 'invalid_value': {
      const seen = new Map<string, string>();
      for (const value of issue.values) {
        const text = JSON.stringify(value);
        if (!seen.has(text.toUpperCase())) seen.set(text.toUpperCase(), text);
      }
      return `should be equal to one of the allowed values (${[...seen.values()].join(', ')})`;
    }
    case 'unrecognized_keys':
      return 'should NOT have additional properties';
    case 'invalid_format':
      return `should match format "${issue.format === 'guid' ? 'uuid' : issue.format}"`;
    case 'invalid_union':
      return 'should be object';
    default:
      return issue.message;
  }
}

/** Where keys are a client's own names, which are in brackets. */
const openObjects: ReadonlySet<string> = new Set(['bucket.index']);

function place(name: string, path: readonly PropertyKey[]): string {
  return path.reduce<string>(
    (at, part) =>
      typeof part === 'number'
        ? `${at}[${part}]`
        : openObjects.has(at) || !/^[a-z_]\w*$/i.test(String(part))
          ? `${at}['${String(part)}']`
          : `${at}.${String(part)}`,
    name,
  );
}

function at(input: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (value, part) => (typeof value === 'object' && value !== null ? Reflect.get(value, part) : undefined),
    input,
  );
}
