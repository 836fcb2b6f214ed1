import { randomBytes } from 'node:crypto';
import type pg from 'pg';
import { CongerError } from '../../runtime/errors.ts';
import type { RpcTable } from '../rpc.ts';
import { type CallOptions, parseArguments } from './arguments.ts';
import type { Bucket } from './bucket.ts';
import { transaction } from './database.ts';
import { notIndexed, notNullable } from './errors.ts';
import type { Filter } from './filter/ast.ts';
import { Parameters } from './filter/compile.ts';
import { registryTable } from './identifiers.ts';
import { StaleBucket, withBucket } from './retry.ts';
import { compileSearch, filterOf, requireIndexes } from './search.ts';
import { outcomeError, queryError, writeError } from './sql-errors.ts';
import { withPosition } from './standby.ts';
import { limitStatements, originOf, type Store } from './store.ts';
import { anyObject, encodeColumns, encodeDelete, encodePut, type Origin, type Write } from './write.ts';
import { executeWrites } from './write-statement.ts';

/** Rows, and bytes of their values, that one statement rewrites; the transaction goes on until there are no more. */
const rowsPerStatement = 500;
const bytesPerStatement = 16 * 1024 * 1024;
/** Values up to this size come with their keys; larger ones are read when it is their turn. */
const smallValue = Math.floor(bytesPerStatement / rowsPerStatement);

interface Found {
  readonly _key: string;
  readonly _value: string | null;
  /** Of the value, in bytes. */
  readonly size: number;
  /** The bucket's version that its columns are of. */
  readonly _rver: string | null;
}

type Locked = Found & { readonly _value: string };

/** Rows in their order, as many at a time as one statement may rewrite. */
function* portions(rows: readonly Found[]): Generator<readonly Found[]> {
  let start = 0;
  let bytes = 0;
  for (const [i, { size }] of rows.entries()) {
    if (i > start && bytes + size > bytesPerStatement) {
      yield rows.slice(start, i);
      start = i;
      bytes = 0;
    }
    bytes += size;
  }
  yield rows.slice(start);
}

/** The rows, which are locked, with the values that did not come with them. */
async function withValues(
  client: pg.PoolClient,
  bucket: Bucket,
  rows: readonly Found[],
): Promise<readonly Locked[]> {
  const missing = rows.filter((row) => row._value === null).map((row) => row._key);
  const values = new Map<string, string>();
  if (missing.length > 0) {
    const read = await client.query<{ _key: string; _value: string }>(
      `SELECT _key, _value FROM ${bucket.table} WHERE _key = ANY ($1)`,
      [missing],
    );
    for (const { _key, _value } of read.rows) values.set(_key, _value);
  }
  return rows.map((row) => {
    const _value = row._value ?? values.get(row._key);
    if (_value === undefined) throw new StaleBucket(bucket);
    return { ...row, _value };
  });
}

/**
 * Locks the objects that a filter finds and writes each anew, by the statement that all writes go through: so each is
 * in the feed, and its etag and indexes are right. In the order of their keys unless the search is sorted.
 */
async function rewrite(
  client: pg.PoolClient,
  bucket: Bucket,
  search: { readonly filter: Filter; readonly options: CallOptions },
  encode: (rows: readonly Found[]) => Promise<readonly Write[]>,
): Promise<number> {
  const parameters = new Parameters();
  const { sql, tail } = compileSearch(bucket, search.filter, search.options, parameters);
  const order = tail.startsWith('ORDER BY') ? tail : `ORDER BY _key ${tail}`;
  await client.query({
    text: `DECLARE found NO SCROLL CURSOR FOR
      SELECT _key, _rver, octet_length(_value) AS size,
        CASE WHEN octet_length(_value) <= ${smallValue} THEN _value END AS _value
      FROM ${bucket.table} WHERE ${sql} ${order} FOR UPDATE`,
    values: parameters.values,
  });
  let count = 0;
  for (;;) {
    const found = await client.query<Found>(`FETCH ${rowsPerStatement} FROM found`);
    if (found.rows.length === 0) break;
    for (const rows of portions(found.rows)) {
      const writes = await encode(rows);
      const outcomes = await executeWrites(client, bucket, writes, 'whole');
      if (outcomes === undefined) throw new StaleBucket(bucket);
      for (const [i, write] of writes.entries()) {
        if (outcomes[i]?.kind !== 'written') throw outcomeError(bucket.name, write, outcomes[i]);
      }
      await keepOutdated(client, bucket, rows);
    }
    count += found.rows.length;
  }
  await client.query('CLOSE found');
  await checkCurrent(client, bucket);
  return count;
}

/** As in Moray, what was to be reindexed still is: clients count on reindexObjects coming to every object. */
async function keepOutdated(client: pg.PoolClient, bucket: Bucket, rows: readonly Found[]): Promise<void> {
  if (!bucket.tracked) return;
  const outdated = rows.filter(({ _rver }) => _rver === null || Number(_rver) < bucket.version);
  if (outdated.length === 0) return;
  await client.query(`UPDATE ${bucket.table} SET _rver = NULL WHERE _key = ANY ($1)`, [
    outdated.map((row) => row._key),
  ]);
}

/** The search has locked the table, so the bucket cannot change any more: now is when to see whether it had. */
async function checkCurrent(client: pg.PoolClient, bucket: Bucket): Promise<void> {
  const { rows } = await client.query<{ generation: string }>(
    `SELECT generation FROM ${registryTable} WHERE name = $1`,
    [bucket.name],
  );
  if (rows[0]?.generation !== bucket.generation) throw new StaleBucket(bucket);
}

export interface ManyRequest {
  readonly bucket: Bucket;
  readonly filter: Filter;
  /** The filter as it was given, for errors. */
  readonly text: string;
  readonly options: CallOptions;
  readonly origin: Origin;
}

/** Deletes what a filter finds (up to the limit), inside the caller's transaction. */
export async function deleteMany(client: pg.PoolClient, request: ManyRequest): Promise<{ count: number }> {
  const { bucket, filter, text, options, origin } = request;
  requireIndexes(bucket, filter, text);
  const count = await rewrite(client, bucket, { filter, options }, async (rows) =>
    rows.map((row) => encodeDelete(bucket, row._key, anyObject, origin)),
  );
  return { count };
}

/** @throws FieldUpdateError, NotIndexedError, NotNullableError, InvalidIndexTypeError */
function checkFields(bucket: Bucket, fields: Readonly<Record<string, unknown>>): void {
  const names = Object.keys(fields);
  if (names.length === 0) {
    throw new CongerError('FieldUpdateError', `${JSON.stringify(fields)} is not a valid update definition`);
  }
  const { columns } = encodeColumns(bucket, fields);
  for (const name of names) {
    const at = bucket.columns.findIndex((c) => c.field === name);
    const column = bucket.columns[at];
    if (column === undefined) throw notIndexed(bucket.name, JSON.stringify(fields));
    if (bucket.reindexing.has(name)) {
      throw notIndexed(bucket.name, JSON.stringify(fields), {
        unindexedFields: [],
        reindexingFields: [...bucket.reindexing],
      });
    }
    if (fields[name] === null || columns[at] === null) throw notNullable(name, column.type);
  }
}

/** An array under a field that is not indexed as one stays in the value, as in Moray; its column alone is set. */
function encodeUpdate(
  { bucket, origin }: ManyRequest,
  row: Locked,
  fields: Readonly<Record<string, unknown>>,
  etag: string,
): Write {
  const value = JSON.parse(row._value) as Record<string, unknown>;
  const updated = { ...value, ...fields };
  const write = encodePut(bucket, row._key, updated, anyObject, origin, etag);
  const kept = bucket.columns
    .filter(({ field, info }) => Object.hasOwn(fields, field) && Array.isArray(value[field]) && !info.array)
    .map(({ field }) => [field, value[field]]);
  if (kept.length === 0) return write;
  const shown = encodePut(
    bucket,
    row._key,
    { ...updated, ...Object.fromEntries(kept) },
    anyObject,
    origin,
    etag,
  );
  return { ...shown, columns: write.columns };
}

/** Sets fields of what a filter finds (up to the limit), inside the caller's transaction. All get one etag. */
export async function updateMany(
  client: pg.PoolClient,
  request: ManyRequest,
  fields: Readonly<Record<string, unknown>>,
): Promise<{ count: number; etag: string }> {
  const { bucket, filter, text, options } = request;
  requireIndexes(bucket, filter, text);
  checkFields(bucket, fields);
  const etag = `u${randomBytes(4).toString('hex').slice(0, 7)}`;
  const count = await rewrite(client, bucket, { filter, options }, async (rows) => {
    const locked = await withValues(client, bucket, rows);
    return locked.map((row) => encodeUpdate(request, row, fields, etag));
  });
  return { count, etag };
}

/** updateObjects, deleteMany. */
export function manyRpcs(store: Store): RpcTable {
  async function inTransaction<T>(
    name: string,
    text: string,
    options: CallOptions,
    work: (client: pg.PoolClient, request: ManyRequest) => Promise<T>,
  ): Promise<T> {
    const filter = filterOf(text);
    const origin = originOf(options);
    let used: Bucket | undefined;
    try {
      return await withBucket(store.registry, name, options.noBucketCache === true, async (bucket) => {
        used = bucket;
        return transaction(store.database.readers, async (client) => {
          if (options.timeout) await limitStatements(client, options.timeout);
          return work(client, { bucket, filter, text, options, origin });
        });
      });
    } catch (error) {
      throw used === undefined ? queryError(error) : writeError(error, used);
    }
  }

  return {
    async updateObjects({ args, send }) {
      const [name, fields, text, options] = parseArguments('updateObjects', args, [
        ['bucket', 'string'],
        ['fields', 'object'],
        ['filter', 'string'],
        ['options', 'options'],
      ]);
      const answer = await inTransaction(name, text, options, (client, request) =>
        updateMany(client, request, fields),
      );
      await send([await withPosition(store.database, options, answer)]);
    },

    async deleteMany({ args, send }) {
      const [name, text, options] = parseArguments('deleteMany', args, [
        ['bucket', 'string'],
        ['filter', 'string'],
        ['options', 'options'],
      ]);
      const answer = await inTransaction(name, text, options, deleteMany);
      await send([await withPosition(store.database, options, answer)]);
    },
  };
}
