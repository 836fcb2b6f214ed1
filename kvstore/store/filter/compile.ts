import { CongerError } from '../../../runtime/errors.ts';
import type { Bucket, Column } from '../bucket.ts';
import { invalidQuery, notIndexed } from '../errors.ts';
import { quote } from '../identifiers.ts';
import { type IndexTypeInfo, indexTypeInfo, type ScalarType, scalarPg } from '../index-types.ts';
import { encodeScalar } from '../values.ts';
import {
  type Comparison,
  type Extensible,
  type Filter,
  formatFilter,
  type Leaf,
  leavesOf,
  type Pattern,
} from './ast.ts';

/** PostgreSQL's; it takes a statement of more for a broken connection. */
const maxParameters = 65_535;

/** Collects the values of a statement: each becomes a parameter, whatever it holds. */
export class Parameters {
  readonly values: unknown[] = [];

  /**
   * Adds a value, and answers the SQL that stands for it.
   * @throws InvalidQueryError where there are more than PostgreSQL takes
   */
  add(value: unknown, type: string): string {
    if (this.values.length === maxParameters) {
      throw new CongerError('InvalidQueryError', `the query has more than ${maxParameters} values`);
    }
    this.values.push(value);
    return `$${this.values.length}::${type}`;
  }
}

/**
 * What PostgreSQL evaluates of a filter, and what is left. The filter matches where `sql` holds and `residual`
 * matches; without `residual` the SQL is exact. `sql` is never NULL, so that it can be negated.
 */
interface Compiled {
  readonly sql: string | undefined;
  readonly residual: Filter | undefined;
}

export interface CompiledFilter {
  readonly sql: string;
  readonly residual: Filter | undefined;
}

/** Columns that every bucket has. */
const internal: ReadonlyMap<string, { readonly scalar: ScalarType; readonly pg: string }> = new Map([
  ['_id', { scalar: 'number', pg: 'bigint' }],
  ['_mtime', { scalar: 'number', pg: 'bigint' }],
  ['_txn_snap', { scalar: 'number', pg: 'integer' }],
  ['_key', { scalar: 'string', pg: 'text' }],
  ['_etag', { scalar: 'string', pg: 'text' }],
]);

export function isInternal(attribute: string): boolean {
  return internal.has(attribute);
}

/** The type by which PostgreSQL compares a field; undefined where it has no usable index. */
export function typeOf(bucket: Bucket, attribute: string): IndexTypeInfo | undefined {
  const field = internal.get(attribute);
  return field === undefined ? bucket.usable.get(attribute)?.info : indexTypeInfo(field.scalar);
}

/** The fields of a filter that no index supports, and those whose index is being filled in. */
export function unusableFields(
  bucket: Bucket,
  filter: Filter,
): { unindexedFields: string[]; reindexingFields: string[] } {
  const fields = [...new Set(leavesOf(filter).map((leaf) => leaf.attribute))].filter((f) => !isInternal(f));
  const indexed = new Set(bucket.columns.map((c) => c.field));
  return {
    unindexedFields: fields.filter((f) => !indexed.has(f)),
    reindexingFields: fields.filter((f) => bucket.reindexing.has(f)),
  };
}

/**
 * Compiles a filter for a bucket.
 * @throws NotIndexedError where too little of it is indexed; InvalidQueryError where a value or a rule does not suit
 * its field
 */
export function compileFilter(bucket: Bucket, filter: Filter, parameters: Parameters): CompiledFilter {
  for (const leaf of leavesOf(filter)) checkLeaf(bucket, filter, leaf);
  const { sql, residual } = new Compiler(bucket, parameters).compile(filter);
  if (sql === undefined) {
    const composite = filter.type === 'and' || filter.type === 'or';
    throw composite ? notIndexed(bucket.name, formatFilter(filter)) : invalidQuery(formatFilter(filter));
  }
  return { sql, residual };
}

const rangeRules = new Set(['overlaps', 'contains', 'within']);
const caselessRules = new Set(['caseIgnoreMatch', 'caseIgnoreSubstringsMatch']);

function checkLeaf(bucket: Bucket, filter: Filter, leaf: Leaf): void {
  if (leaf.type === 'approx')
    throw invalidQuery(formatFilter(filter), new Error('approx filters not allowed'));
  if (leaf.type !== 'ext') return;
  if (rangeRules.has(leaf.rule)) {
    if (!bucket.usable.has(leaf.attribute)) throw notIndexed(bucket.name, formatFilter(filter));
  } else if (!caselessRules.has(leaf.rule)) {
    throw invalidQuery(formatFilter(filter), new Error('unsupported ext filter'));
  }
}

class Compiler {
  readonly #bucket: Bucket;
  readonly #parameters: Parameters;

  constructor(bucket: Bucket, parameters: Parameters) {
    this.#bucket = bucket;
    this.#parameters = parameters;
  }

  compile(filter: Filter): Compiled {
    switch (filter.type) {
      case 'and':
        return this.#and(filter.filters.map((f) => this.compile(f)));
      case 'or': {
        const parts = filter.filters.map((f) => this.compile(f));
        const sql = parts.map((p) => p.sql);
        if (sql.includes(undefined)) throw notIndexed(this.#bucket.name, formatFilter(filter));
        const exact = parts.every((p) => p.residual === undefined);
        return { sql: `(${sql.join(' OR ')})`, residual: exact ? undefined : filter };
      }
      case 'not': {
        const before = this.#parameters.values.length;
        const { sql, residual } = this.compile(filter.filter);
        // PostgreSQL does not take a parameter that no part of the statement names.
        if (residual !== undefined) this.#parameters.values.length = before;
        return residual === undefined
          ? { sql: `(NOT ${sql})`, residual }
          : { sql: undefined, residual: filter };
      }
      default: {
        const sql = this.#leaf(filter);
        return { sql, residual: sql === undefined ? filter : undefined };
      }
    }
  }

  #and(parts: readonly Compiled[]): Compiled {
    const sql = parts.flatMap((p) => p.sql ?? []);
    const left = parts.flatMap((p) => p.residual ?? []);
    const [first] = left;
    return {
      sql: sql.length === 0 ? undefined : `(${sql.join(' AND ')})`,
      residual: first === undefined || left.length === 1 ? first : { type: 'and', filters: left },
    };
  }

  /** Undefined: the field has no usable index. */
  #leaf(leaf: Leaf): string | undefined {
    const field = internal.get(leaf.attribute);
    if (field !== undefined) return this.#internal(leaf, field.scalar, field.pg);
    const column = this.#bucket.usable.get(leaf.attribute);
    return column === undefined ? undefined : this.#column(leaf, column);
  }

  #internal(leaf: Leaf, scalar: ScalarType, pg: string): string {
    const info = { ...indexTypeInfo(scalar), pg };
    const columns = leaf.attribute === '_id' && this.#bucket.extendedId ? ['_id', '_idx'] : [leaf.attribute];
    const conditions = columns.map((name) => this.#condition(leaf, name, info));
    return conditions.length === 1 ? conditions.join() : `(${conditions.join(' OR ')})`;
  }

  #column(leaf: Leaf, column: Column): string {
    return this.#condition(leaf, quote(column.field), column.info);
  }

  #condition(leaf: Leaf, name: string, info: IndexTypeInfo): string {
    switch (leaf.type) {
      case 'present':
        return `(${name} IS NOT NULL)`;
      case 'substring':
        return this.#like(leaf, name, info, leaf.pattern, false);
      case 'ext':
        return this.#extensible(leaf, name, info);
      default:
        return this.#compare(leaf, name, info);
    }
  }

  #compare(leaf: Comparison, name: string, info: IndexTypeInfo): string {
    const value = this.#value(leaf, info.scalar, leaf.value);
    if (value === null) return 'false';
    // A bigint's index serves comparisons with bigints only.
    const integer =
      info.scalar === 'number' && !info.pg.startsWith('numeric') && Number.isSafeInteger(Number(value));
    const element = integer ? 'bigint' : scalarPg(info.scalar);
    const parameter = this.#parameters.add(value, element);
    if (info.array) {
      if (leaf.type === 'equal') return `(${name} @> ARRAY[${parameter}] AND ${name} IS NOT NULL)`;
      return `coalesce(${parameter} ${leaf.type === 'ge' ? '<=' : '>='} ANY (${name}), false)`;
    }
    const operator = { equal: '=', ge: '>=', le: '<=', approx: '=' }[leaf.type];
    return `(${name} ${operator} ${parameter} AND ${name} IS NOT NULL)`;
  }

  #like(leaf: Leaf, name: string, info: IndexTypeInfo, pattern: Pattern, caseless: boolean): string {
    if (info.array) throw notIndexed(this.#bucket.name, formatFilter(leaf));
    if (info.scalar !== 'string') {
      throw invalidQuery(formatFilter(leaf), new Error(`${leaf.attribute} is of type ${info.scalar}`));
    }
    const like = [pattern.initial, ...pattern.any, pattern.final]
      .map((part) => part.replace(/[%_\\]/g, '\\$&'))
      .join('%');
    if (!caseless) return `(${name} LIKE ${this.#parameters.add(like, 'text')} AND ${name} IS NOT NULL)`;
    return `(${lower(name)} LIKE ${lower(this.#parameters.add(like, 'text'))} AND ${name} IS NOT NULL)`;
  }

  #extensible(leaf: Extensible, name: string, info: IndexTypeInfo): string {
    if (rangeRules.has(leaf.rule)) return this.#range(leaf, name, info);
    if (leaf.pattern !== undefined && leaf.rule === 'caseIgnoreSubstringsMatch') {
      return this.#like(leaf, name, info, leaf.pattern, true);
    }
    if (info.scalar !== 'string') throw invalidQuery(formatFilter(leaf));
    const wanted = lower(this.#parameters.add(leaf.value, 'text'));
    return info.array
      ? `coalesce(${wanted} IN (SELECT ${lower('e')} FROM unnest(${name}) AS e), false)`
      : `(${lower(name)} = ${wanted} AND ${name} IS NOT NULL)`;
  }

  #range(leaf: Extensible, name: string, info: IndexTypeInfo): string {
    const rule = info.rules[leaf.rule as keyof IndexTypeInfo['rules']];
    if (rule === undefined) throw invalidQuery(formatFilter(leaf));
    const value = this.#value(leaf, rule.operand, leaf.value);
    if (value === null) throw invalidQuery(formatFilter(leaf));
    const parameter = this.#parameters.add(value, scalarPg(rule.operand));
    return info.array
      ? `coalesce(${parameter} ${rule.operator} ANY (${name}), false)`
      : `(${parameter} ${rule.operator} ${name} AND ${name} IS NOT NULL)`;
  }

  /** The value in PostgreSQL's text form for its type; null: a number that is none, which equals nothing. */
  #value(leaf: Leaf, scalar: ScalarType, text: string): string | null {
    try {
      return encodeScalar(scalar, text).text;
    } catch (error) {
      throw invalidQuery(formatFilter(leaf), error);
    }
  }
}

/** Lower case of all of Unicode, whatever the column's collation. */
function lower(sql: string): string {
  return `lower(${sql} COLLATE "pg_c_utf8")`;
}
