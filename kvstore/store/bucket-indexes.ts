import type pg from 'pg';
import type { Column } from './bucket.ts';
import { partOf, quote, schemaName, tableOf } from './identifiers.ts';

type Method = Column['info']['method'];

/** One index of a bucket's table, on one column. */
export interface Index {
  readonly column: Column;
  readonly unique: boolean;
  readonly method: Method;
}

/** An index as PostgreSQL has it. */
interface FoundIndex {
  readonly name: string;
  readonly column: string;
  readonly unique: boolean;
  readonly method: string;
  readonly valid: boolean;
}

const methods: readonly Method[] = ['btree', 'gin', 'gist'];

/** An array's index for lookups by element, and, where it is unique, one for the array as a whole. */
export function indexesOf(column: Column): Index[] {
  const { method } = column.info;
  if (!column.unique) return [{ column, unique: false, method }];
  const unique: Index = { column, unique: true, method: 'btree' };
  return method === 'btree' ? [unique] : [unique, { column, unique: false, method }];
}

export function indexName(bucket: string, { column, unique, method }: Index): string {
  return partOf(bucket, `${column.name}.${unique ? 'unique' : method}`);
}

/** Every name that an index of the column can have; the first is what all had once. */
export function indexNames(bucket: string, column: Pick<Column, 'name'>): string[] {
  return ['', '.unique', ...methods.map((m) => `.${m}`)].map((kind) => partOf(bucket, column.name + kind));
}

/** @param concurrently outside of a transaction, and without stopping writers */
export async function createIndex(
  client: pg.PoolClient,
  bucket: string,
  index: Index,
  concurrently: boolean,
): Promise<void> {
  const column = quote(index.column.name);
  await client.query(
    `CREATE ${index.unique ? 'UNIQUE ' : ''}INDEX ${concurrently ? 'CONCURRENTLY ' : ''}
       ${quote(indexName(bucket, index))} ON ${tableOf(bucket)} USING ${index.method} (${column})
       ${index.unique ? '' : `WHERE ${column} IS NOT NULL`}`,
  );
}

/** @param concurrently outside of a transaction, and without stopping writers */
export async function dropIndex(client: pg.PoolClient, name: string, concurrently: boolean): Promise<void> {
  await client.query(
    `DROP INDEX ${concurrently ? 'CONCURRENTLY ' : ''}IF EXISTS ${schemaName}.${quote(name)}`,
  );
}

/**
 * Of the indexes that `columns` are to have, those that are not there; of those that are there, what is too many, and
 * which of it is not valid: left by a build that failed.
 */
export async function compareIndexes(
  client: pg.PoolClient,
  bucket: string,
  columns: readonly Column[],
): Promise<{ missing: Index[]; superfluous: string[]; invalid: string[] }> {
  const { rows: found } = await client.query<FoundIndex>(
    `SELECT c.relname AS name, a.attname AS column, i.indisunique AS unique, m.amname AS method,
       i.indisvalid AS valid
     FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
     WHERE i.indrelid = $1::regclass AND i.indnatts = 1 AND a.attname = ANY ($2::text[])`,
    [tableOf(bucket), columns.map((c) => c.name)],
  );
  const wanted = columns.flatMap(indexesOf);
  const isOf = (f: FoundIndex, w: Index) =>
    f.valid && f.column === w.column.name && f.unique === w.unique && f.method === w.method;
  // What somebody has made by hand has another name, and stays.
  const ours = new Set(columns.flatMap((c) => indexNames(bucket, c)));
  const superfluous = found.filter((f) => ours.has(f.name) && !wanted.some((w) => isOf(f, w)));
  return {
    missing: wanted.filter((w) => !found.some((f) => isOf(f, w))),
    superfluous: superfluous.map((f) => f.name),
    invalid: superfluous.filter((f) => !f.valid).map((f) => f.name),
  };
}
