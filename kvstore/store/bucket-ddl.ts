import type pg from 'pg';
import { columnsOf, type ValidConfig } from './bucket.ts';
import { ring } from './bucket-bell.ts';
import { createIndex, indexesOf } from './bucket-indexes.ts';
import { stateOf } from './database.ts';
import { bucketConflict } from './errors.ts';
import { partOf, quote, registryTable, sequenceOf, tableOf } from './identifiers.ts';
import { keyConstraint } from './sql-errors.ts';
import { lockRegistry, lockTable } from './table-lock.ts';

/** Creating and deleting a bucket, each inside the caller's transaction. How it changes: bucket-change.ts. */

/** A configuration as the registry has it: index, pre, post, options. */
export function configTexts({ index, hooks, options }: ValidConfig): string[] {
  return [index, hooks.pre, hooks.post, options].map((part) => JSON.stringify(part));
}

/** @throws BucketConflictError where the bucket exists */
export async function createBucket(client: pg.PoolClient, name: string, config: ValidConfig): Promise<void> {
  try {
    await client.query(
      `INSERT INTO ${registryTable} (name, index, pre, post, options) VALUES ($1, $2, $3, $4, $5)`,
      [name, ...configTexts(config)],
    );
  } catch (error) {
    throw stateOf(error) === '23505' ? bucketConflict(name, error) : error;
  }
  const columns = columnsOf(config.index);
  const definitions = columns.map((c) => `, ${quote(c.field)} ${c.info.column}`);
  const sequence = sequenceOf(name);
  // As far as a number of JavaScript's goes.
  await client.query(`CREATE SEQUENCE ${sequence} MAXVALUE ${Number.MAX_SAFE_INTEGER}`);
  // Room in each page lets an update that touches no indexed column stay in its page, without index entries.
  await client.query(`
    CREATE TABLE ${tableOf(name)} (
      _id bigint DEFAULT nextval('${sequence}'),
      _txn_snap integer,
      _key text COLLATE "C" NOT NULL CONSTRAINT ${quote(keyConstraint(name))} PRIMARY KEY,
      _value text NOT NULL,
      _etag text COLLATE "C" NOT NULL,
      _mtime bigint NOT NULL,
      _vnode bigint,
      _rver bigint,
      _pkey text NOT NULL
      ${definitions.join('')}
    ) WITH (fillfactor = 90)`);
  await client.query(`ALTER SEQUENCE ${sequence} OWNED BY ${tableOf(name)}._id`);
  await client.query(`CREATE INDEX ${quote(partOf(name, '_id'))} ON ${tableOf(name)} (_id)`);
  for (const index of columns.flatMap(indexesOf)) await createIndex(client, name, index, false);
  await ring(client, name);
}

/**
 * A change that is under way ends with its bucket.
 * @throws BucketNotFoundError
 */
export async function deleteBucket(client: pg.PoolClient, name: string): Promise<void> {
  await lockRegistry(client, name);
  await client.query(
    `SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index
     WHERE datname = current_database() AND relid = $1::regclass`,
    [tableOf(name)],
  );
  await lockTable(client, name);
  await client.query(`DROP TABLE ${tableOf(name)}`);
  await client.query(`DELETE FROM ${registryTable} WHERE name = $1`, [name]);
  await ring(client, name);
}
