import { CongerError } from '../../runtime/errors.ts';
import type { CallOptions } from './arguments.ts';
import { type Bucket, idOf } from './bucket.ts';
import { invalidQuery, notIndexed } from './errors.ts';
import type { Filter } from './filter/ast.ts';
import {
  type CompiledFilter,
  compileFilter,
  isInternal,
  type Parameters,
  unusableFields,
} from './filter/compile.ts';
import { parseFilter } from './filter/parse.ts';
import { quote } from './identifiers.ts';

/** Moray's, where a query names none. */
const defaultLimit = 1000;

/** @throws InvalidQueryError */
export function filterOf(text: string): Filter {
  try {
    return parseFilter(text);
  } catch (error) {
    throw invalidQuery(text, error);
  }
}

/** @throws NotIndexedError naming the fields, where any field of the filter has no usable index */
export function requireIndexes(bucket: Bucket, filter: Filter, text: string): void {
  const fields = unusableFields(bucket, filter);
  if (fields.unindexedFields.length > 0 || fields.reindexingFields.length > 0) {
    throw notIndexed(bucket.name, text, fields);
  }
}

/** The clauses of a search: what to filter by in SQL and after it, and in what order which part of it. */
export interface Search extends CompiledFilter {
  /** `ORDER BY ... LIMIT ... OFFSET ...`, each where there is one. */
  readonly tail: string;
}

function number(value: number | string | undefined): number {
  const parsed = Number(value ?? 0);
  if (!Number.isSafeInteger(parsed)) throw new CongerError('InvocationError', `${value} is out of range`);
  return parsed;
}

function orderBy(bucket: Bucket, sort: CallOptions['sort']): string {
  const sorts = sort === undefined ? [] : Array.isArray(sort) ? sort : [sort];
  const terms = sorts.flatMap(({ attribute, order }) => {
    if (!attribute) return [];
    const column = bucket.columns.find((c) => c.field === attribute && !c.pending);
    if (column === undefined && !isInternal(attribute) && attribute !== '_vnode') {
      throw invalidQuery(attribute, new Error('it is no field to sort by'));
    }
    const sql = attribute === '_id' ? idOf(bucket) : quote(attribute);
    return [`${sql} ${order?.toUpperCase() === 'DESC' ? 'DESC' : 'ASC'}`];
  });
  return terms.length === 0 ? '' : `ORDER BY ${terms.join(', ')}`;
}

/** @throws InvalidQueryError, NotIndexedError, InvocationError */
export function compileSearch(
  bucket: Bucket,
  filter: Filter,
  options: CallOptions,
  parameters: Parameters,
): Search {
  const compiled = compileFilter(bucket, filter, parameters);
  const limit = number(options.limit) || (options.noLimit ? 0 : defaultLimit);
  const offset = number(options.offset);
  const clauses = [
    orderBy(bucket, options.sort),
    limit > 0 ? `LIMIT ${parameters.add(limit, 'bigint')}` : '',
    offset > 0 ? `OFFSET ${parameters.add(offset, 'bigint')}` : '',
  ];
  return { ...compiled, tail: clauses.filter((c) => c !== '').join(' ') };
}
