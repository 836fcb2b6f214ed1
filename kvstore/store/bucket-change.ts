import type pg from 'pg';
import { CongerError } from '../../runtime/errors.ts';
import {
  type BucketChange,
  type ChangeFailure,
  changeOf,
  columnsOf,
  configOf,
  endedChangeOf,
  pendingColumns,
  type RegistryRow,
  type ReindexActive,
  reindexActiveOf,
  sameColumn,
  type ValidConfig,
} from './bucket.ts';
import { ring } from './bucket-bell.ts';
import { configTexts } from './bucket-ddl.ts';
import { compareIndexes, createIndex, dropIndex, indexesOf, indexName } from './bucket-indexes.ts';
import { bucketConflict, bucketVersion, uniqueAttribute } from './errors.ts';
import { changesTable, quote, registryTable, schemaName, tableOf } from './identifiers.ts';
import { lockRegistry, lockTable } from './table-lock.ts';

/**
 * A bucket's change from one configuration to another, in short transactions with the building of indexes in between
 * (index-builder.ts). Until it is complete the bucket is what it was, but for this: writers fill in the columns that
 * are coming, too. Each of the transactions gives the bucket a new generation while its table is locked, so no
 * statement is ever half of one and half of the other.
 */

/** Up to this size of a table its indexes are built while it is locked: that is over in some milliseconds. */
const smallTableBytes = 1024 * 1024;

export type Begun =
  | { readonly kind: 'done' }
  /** To be completed once its indexes are built. */
  | { readonly kind: 'begun'; readonly change: BucketChange }
  /** Another change is under way. `same`: to the same configuration. */
  | { readonly kind: 'busy'; readonly change: BucketChange; readonly same: boolean };

/**
 * @throws BucketNotFoundError, BucketVersionError
 * @throws what is UniqueAttributeError's cause, where an index of a small bucket cannot be unique
 */
export async function beginChange(
  client: pg.PoolClient,
  name: string,
  config: ValidConfig,
  noReindex: boolean,
): Promise<Begun> {
  const row = await lockRegistry(client, name);
  const underWay = changeOf(row);
  if (underWay !== undefined) {
    return {
      kind: 'busy',
      change: underWay,
      same: JSON.stringify(underWay.config) === JSON.stringify(config),
    };
  }
  const current = configOf(row).options.version ?? 0;
  const { version } = config.options;
  if (current !== 0 && current >= version) throw bucketVersion(name, current, version);

  await lockTable(client, name);
  const change: BucketChange = { id: await newGeneration(client), config, noReindex };
  const pending = pendingColumns(configOf(row), config);
  if (pending.length > 0) {
    const columns = pending.map((c) => `ADD COLUMN ${quote(c.name)} ${c.info.column}`);
    await client.query(`ALTER TABLE ${tableOf(name)} ${columns.join(', ')}`);
  }
  const { missing } = await compareIndexes(client, name, columnsToBe(row, config));
  if (missing.length === 0 || (await isSmall(client, name))) {
    for (const index of missing) await createIndex(client, name, index, false);
    await complete(client, row, change);
    return { kind: 'done' };
  }
  await setGeneration(client, name, change.id);
  await client.query(
    `INSERT INTO ${changesTable} (name, change) VALUES ($1, $2)
     ON CONFLICT (name) DO UPDATE SET change = excluded.change`,
    [name, JSON.stringify(change)],
  );
  await ring(client, name);
  return { kind: 'begun', change };
}

/** Makes the configuration the bucket's own, unless the change has ended meanwhile. All its indexes are there. */
export async function completeChange(client: pg.PoolClient, name: string, id: string): Promise<void> {
  const row = await lockRegistry(client, name);
  const change = changeOf(row);
  if (change?.id !== id) {
    await dropStrays(client, row);
    return;
  }
  await lockTable(client, name);
  await complete(client, row, change);
}

/** Leaves the bucket as it was before the change, unless that has ended meanwhile. */
export async function abandonChange(
  client: pg.PoolClient,
  name: string,
  id: string,
  failure: ChangeFailure,
): Promise<void> {
  const row = await lockRegistry(client, name);
  const change = changeOf(row);
  if (change?.id !== id) {
    await dropStrays(client, row);
    return;
  }
  await lockTable(client, name);
  const before = configOf(row);
  const pending = pendingColumns(before, change.config);
  await dropColumns(
    client,
    name,
    pending.map((c) => c.name),
  );
  const { superfluous } = await compareIndexes(client, name, columnsOf(before.index));
  for (const index of superfluous) await dropIndex(client, index, false);
  await setGeneration(client, name, await newGeneration(client));
  await end(client, name, { id, failure });
}

/**
 * Where a bucket was deleted and made anew while its indexes were being built, a build may have come upon the new
 * table, and have left it an index of the old bucket's change.
 */
async function dropStrays(client: pg.PoolClient, row: RegistryRow): Promise<void> {
  // The change that is under way sees to them when it ends.
  if (changeOf(row) !== undefined) return;
  const { superfluous } = await compareIndexes(client, row.name, columnsOf(configOf(row).index));
  if (superfluous.length === 0) return;
  await lockTable(client, row.name);
  for (const index of superfluous) await dropIndex(client, index, false);
}

/** How the change ended; undefined: it was completed. */
export function outcomeOf(row: RegistryRow, id: string): CongerError | undefined {
  const ended = endedChangeOf(row);
  // Another change has ended since, and how this one did is not known any more.
  if (ended?.id !== id) return bucketConflict(row.name);
  if (ended.failure === undefined) return undefined;
  const { state, message, field, value } = ended.failure;
  if (state === '23505') {
    return uniqueAttribute(field, value ?? '', { bucket: row.name }, new Error(message));
  }
  const context = { bucket: row.name, field, sqlstate: state };
  const text = `${row.name} is as it was, since the index of "${field}" could not be built: ${message}`;
  if (state.startsWith('53'))
    return new CongerError('OverloadedError', text, { context: { ...context, retryAfterMs: 1_000 } });
  return new CongerError(/^(22|54)/.test(state) ? 'InvocationError' : 'InternalError', text, { context });
}

/** The columns of the configuration that is coming, by the names that they have until it has come. */
export function columnsToBe(row: RegistryRow, config: ValidConfig): ReturnType<typeof pendingColumns> {
  const before = configOf(row);
  const kept = columnsOf(config.index).filter((c) => columnsOf(before.index).some((b) => sameColumn(b, c)));
  return [...kept, ...pendingColumns(before, config)];
}

async function complete(client: pg.PoolClient, row: RegistryRow, change: BucketChange): Promise<void> {
  const { name } = row;
  const { config, noReindex } = change;
  const before = configOf(row);
  const after = columnsOf(config.index);
  const pending = pendingColumns(before, config);
  const gone = columnsOf(before.index).filter((b) => !after.some((a) => sameColumn(a, b)));
  await dropColumns(
    client,
    name,
    gone.map((c) => c.name),
  );
  for (const column of pending) await rename(client, name, column);
  const { superfluous } = await compareIndexes(client, name, after);
  for (const index of superfluous) await dropIndex(client, index, false);

  const tracked = config.options.version > 0 && !noReindex;
  const added = pending.map((c) => c.field);
  const active = tracked
    ? JSON.stringify(withReindexing(reindexActiveOf(row), config.options.version, added))
    : row.reindex_active;
  await client.query(
    `UPDATE ${registryTable} SET index = $2, pre = $3, post = $4, options = $5, reindex_active = $6, mtime = now()
     WHERE name = $1`,
    [name, ...configTexts(config), active],
  );
  await setGeneration(client, name, await newGeneration(client));
  await end(client, name, { id: change.id });
}

/** Gives a column that was pending, and its indexes, the names that they are to keep. */
async function rename(
  client: pg.PoolClient,
  bucket: string,
  column: ReturnType<typeof pendingColumns>[number],
): Promise<void> {
  const final = { ...column, name: column.field };
  await client.query(
    `ALTER TABLE ${tableOf(bucket)} RENAME COLUMN ${quote(column.name)} TO ${quote(final.name)}`,
  );
  for (const index of indexesOf(column)) {
    const [from, to] = [indexName(bucket, index), indexName(bucket, { ...index, column: final })];
    await client.query(`ALTER INDEX ${schemaName}.${quote(from)} RENAME TO ${quote(to)}`);
  }
}

async function dropColumns(client: pg.PoolClient, bucket: string, names: readonly string[]): Promise<void> {
  if (names.length === 0) return;
  const drops = names.map((column) => `DROP COLUMN ${quote(column)}`);
  await client.query(`ALTER TABLE ${tableOf(bucket)} ${drops.join(', ')}`);
}

async function isSmall(client: pg.PoolClient, bucket: string): Promise<boolean> {
  const { rows } = await client.query<{ small: boolean }>(
    'SELECT pg_table_size($1::regclass) <= $2 AS small',
    [tableOf(bucket), smallTableBytes],
  );
  return rows[0]?.small === true;
}

async function newGeneration(client: pg.PoolClient): Promise<string> {
  const { rows } = await client.query<{ generation: string }>(
    `SELECT nextval('${schemaName}."bucket.generation"')::text AS generation`,
  );
  return rows[0]?.generation ?? '';
}

async function setGeneration(client: pg.PoolClient, name: string, generation: string): Promise<void> {
  await client.query(`UPDATE ${registryTable} SET generation = $2 WHERE name = $1`, [name, generation]);
}

async function end(
  client: pg.PoolClient,
  name: string,
  ended: { readonly id: string; readonly failure?: ChangeFailure },
): Promise<void> {
  await client.query(
    `INSERT INTO ${changesTable} (name, ended) VALUES ($1, $2)
     ON CONFLICT (name) DO UPDATE SET change = NULL, ended = excluded.ended`,
    [name, JSON.stringify(ended)],
  );
  await ring(client, name);
}

/** Adds `fields` to those that the update to `version` has left to be filled in. */
function withReindexing(active: ReindexActive, version: number, fields: readonly string[]): ReindexActive {
  return { ...active, [version]: [...new Set([...(active[version] ?? []), ...fields])] };
}
