import type { Connections } from './connections.ts';
import { transaction } from './database.ts';
import {
  builderSeat,
  changesTable,
  orderTable,
  registryTable,
  reindexTable,
  schemaName,
} from './identifiers.ts';

/** Taken while the registry is made, so that servers that start together do not trip over each other. */
const initialiseLock = 7_023_110_451;

/**
 * Makes the registry of buckets where it is missing. `generation` is unique over all buckets and all their updates:
 * statements name the one that they were made for, and do nothing on any other.
 */
export async function initialiseSchema(connections: Connections): Promise<void> {
  await transaction(connections, async (client) => {
    await client.query('SELECT pg_advisory_xact_lock($1)', [initialiseLock]);
    await client.query(`CREATE SCHEMA IF NOT EXISTS ${schemaName}`);
    await client.query(`CREATE SEQUENCE IF NOT EXISTS ${schemaName}."bucket.generation"`);
    await client.query(`
      CREATE TABLE IF NOT EXISTS ${registryTable} (
        name text COLLATE "C" PRIMARY KEY,
        index text NOT NULL,
        pre text NOT NULL,
        post text NOT NULL,
        options text NOT NULL,
        mtime timestamptz NOT NULL DEFAULT now(),
        reindex_active text,
        generation bigint NOT NULL DEFAULT nextval('${schemaName}."bucket.generation"')
      )`);
    // Its rows are updated by every group of puts: with room in each page that leaves no work for the index.
    await client.query(`
      CREATE TABLE IF NOT EXISTS ${orderTable} (
        name text COLLATE "C" PRIMARY KEY REFERENCES ${registryTable} ON DELETE CASCADE,
        id integer NOT NULL
      ) WITH (fillfactor = 10)`);
    // Not columns of the registry: an older server, which may still run, reads all of those by a prepared statement.
    await client.query(`
      CREATE TABLE IF NOT EXISTS ${changesTable} (
        name text COLLATE "C" PRIMARY KEY REFERENCES ${registryTable} ON DELETE CASCADE,
        change text,
        ended text
      )`);
    await client.query(`
      CREATE TABLE IF NOT EXISTS ${reindexTable} (
        name text COLLATE "C" PRIMARY KEY REFERENCES ${registryTable} ON DELETE CASCADE,
        version bigint NOT NULL,
        first bigint NOT NULL,
        low bigint NOT NULL,
        bound bigint NOT NULL,
        objects bigint NOT NULL
      )`);
    const { rows } = await client.query<{ there: boolean }>(
      `SELECT to_regclass('${builderSeat}') IS NOT NULL AS there`,
    );
    // A view, as vacuum would have to wait for the lock of a table; it is looked for first, as to replace it locks it.
    if (rows[0]?.there !== true) await client.query(`CREATE VIEW ${builderSeat} AS SELECT 1 AS seat`);
  });
}
