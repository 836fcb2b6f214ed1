import { configuredBucket } from './store/bucket.ts';
import { invalidQuery, notIndexed } from './store/errors.ts';
import { formatFilter, type Leaf, leavesOf } from './store/filter/ast.ts';
import { compileFilter, isInternal, Parameters, typeOf } from './store/filter/compile.ts';
import { type FieldTypes, matches } from './store/filter/match.ts';
import { parseFilter } from './store/filter/parse.ts';
import { encodeField } from './store/values.ts';
import type { BucketConfig } from './types.ts';

/** A filter that judges values in memory as the store's find judges the objects that have them. */
export interface ObjectFilter {
  /** In its own language, canonically escaped: filters with the same text are the same. */
  readonly text: string;
  matches(key: string, value: unknown): boolean;
}

/**
 * Parses a filter over a bucket's indexed fields and `_key`. Refuses what only PostgreSQL can decide: rules on ranges,
 * the order and the equality of ranges, and fields of the object that its value does not hold (`_id`, `_mtime`).
 * @throws CongerError InvalidQueryError, NotIndexedError
 */
export function objectFilter(name: string, index: BucketConfig['index'], text: string): ObjectFilter {
  const bucket = configuredBucket(name, index);
  const filter = parsed(text);
  const leaves = leavesOf(filter);
  const unindexedFields = [...new Set(leaves.map(({ attribute }) => attribute))].filter(
    (field) => field !== '_key' && (isInternal(field) || !bucket.usable.has(field)),
  );
  const canonical = formatFilter(filter);
  if (unindexedFields.length > 0) {
    throw notIndexed(name, canonical, { unindexedFields, reindexingFields: [] });
  }
  const types: FieldTypes = (attribute) => typeOf(bucket, attribute);
  compileFilter(bucket, filter, new Parameters());
  const undecided = leaves.find((leaf) => onlyPostgres(leaf, types));
  if (undecided !== undefined) {
    throw invalidQuery(canonical, new Error(`${formatFilter(undecided)} cannot be followed`));
  }
  const fields = [...new Set(leaves.map(({ attribute }) => attribute))];
  return {
    text: canonical,
    matches: (key, value) =>
      matches(filter, Object.fromEntries(fields.map((field) => [field, read(field, key, value)])), types),
  };

  /** A field as its column has it. */
  function read(field: string, key: string, value: unknown): unknown {
    if (field === '_key') return key;
    const column = bucket.usable.get(field);
    if (column === undefined || typeof value !== 'object' || value === null) return undefined;
    if (!Object.hasOwn(value, field)) return undefined;
    try {
      const { text: stored, json } = encodeField(column.info, (value as Record<string, unknown>)[field]);
      return stored === null ? undefined : json;
    } catch {
      // A value that its index does not take was written before there was the index.
      return undefined;
    }
  }
}

function parsed(text: string) {
  try {
    return parseFilter(text);
  } catch (error) {
    throw invalidQuery(text.slice(0, 200), error);
  }
}

function onlyPostgres(leaf: Leaf, types: FieldTypes): boolean {
  if (leaf.type === 'ext') return !leaf.rule.startsWith('caseIgnore');
  return leaf.type !== 'present' && types(leaf.attribute)?.scalar.endsWith('range') === true;
}
