import type pg from 'pg';
import { CongerError } from '../../runtime/errors.ts';
import type { RpcTable } from '../rpc.ts';
import { parseArguments } from './arguments.ts';
import { type Bucket, idOf } from './bucket.ts';
import { ring } from './bucket-bell.ts';
import { reading, transaction } from './database.ts';
import { quote, registryTable, reindexTable, schemaName } from './identifiers.ts';
import { advance, openProgress, type Progress, remaining, saveProgress, undone } from './reindex-progress.ts';
import { StaleBucket, withBucket } from './retry.ts';
import { writeError } from './sql-errors.ts';
import type { Store } from './store.ts';
import { setReindexLeft } from './store-metrics.ts';
import { encodeField, TypeMismatch } from './values.ts';

/** Objects that one transaction locks, whatever a client asks for: their writers wait for it. */
const rowsPerTransaction = 200;

interface Outdated {
  readonly _key: string;
  readonly _value: string;
}

interface Chunk {
  readonly count: number;
  /** SKIP LOCKED leaves objects to those who are at them. */
  readonly lock: 'SKIP LOCKED' | '';
}

/** The fields of a stored value as columns; what does not have its index's type is left out of that index. */
function columnsOf(store: Store, bucket: Bucket, row: Outdated): (string | null)[] {
  const value = JSON.parse(row._value) as Record<string, unknown>;
  return bucket.columns.map(({ field, type, info }) => {
    try {
      return encodeField(info, Object.hasOwn(value, field) ? value[field] : undefined).text;
    } catch (error) {
      if (!(error instanceof TypeMismatch)) throw error;
      store.log.warn(
        { bucket: bucket.name, key: row._key, field, type },
        'an object is not in an index: its value has another type',
      );
      return null;
    }
  });
}

/**
 * Fills in the columns of up to `count` objects that were last written under an older version of the bucket, inside
 * the caller's transaction. Values do not change, so this is in no feed.
 */
async function fill(
  store: Store,
  client: pg.PoolClient,
  bucket: Bucket,
  { low, bound }: Progress,
  { count, lock }: Chunk,
): Promise<number> {
  const id = idOf(bucket);
  const { rows } = await client.query<Outdated>(
    `SELECT _key, _value FROM ${bucket.table}
     WHERE ${undone} AND ${id} > $2 AND ${id} <= $3
       AND EXISTS (SELECT FROM ${registryTable} WHERE name = $4 AND generation = $5)
     ORDER BY ${id} LIMIT $6 FOR NO KEY UPDATE ${lock}`,
    [bucket.version, low, bound, bucket.name, bucket.generation, count],
  );
  if (rows.length === 0) return 0;
  const encoded = rows.map((row) => columnsOf(store, bucket, row));
  const sets = bucket.columns.map((c, i) => `, ${quote(c.name)} = i.c${i}::${c.info.pg}`);
  const aliases = ['k', ...bucket.columns.map((_, i) => `c${i}`)];
  await client.query(
    `UPDATE ${bucket.table} t SET _rver = $1${sets.join('')}
     FROM unnest(${aliases.map((_, i) => `$${i + 2}::text[]`).join(', ')}) AS i(${aliases.join(', ')})
     WHERE t._key = i.k`,
    [
      bucket.version,
      rows.map((r) => r._key),
      ...bucket.columns.map((_, c) => encoded.map((e) => e[c] ?? null)),
    ],
  );
  return rows.length;
}

/**
 * Reindexes `count` objects in short transactions, fewer only where no more are left, or where the bucket changes. Calls
 * at the same time share the objects among them; one that finds all that are left taken waits for one of them.
 */
async function reindex(
  store: Store,
  bucket: Bucket,
  count: number,
): Promise<{ processed: number; progress: Progress | undefined }> {
  const { readers } = store.database;
  let progress: Progress | undefined = await reading(readers, (client) => openProgress(client, bucket));
  let processed = 0;
  for (let wait = false; ; ) {
    const from: Progress = progress;
    progress = await reading(readers, (client) => advance(client, bucket, from));
    if (progress === undefined || processed >= count) return { processed, progress };
    const at = progress;
    const chunk: Chunk = wait
      ? { count: 1, lock: '' }
      : { count: Math.min(count - processed, rowsPerTransaction), lock: 'SKIP LOCKED' };
    const filled: number = await transaction(readers, (client) => fill(store, client, bucket, at, chunk));
    if (filled === 0 && wait && !(await isCurrent(store, bucket))) {
      // What is done is told; the next call meets the bucket as it is then.
      if (processed > 0) return { processed, progress };
      throw new StaleBucket(bucket);
    }
    wait = filled === 0 && !wait;
    processed += filled;
  }
}

async function isCurrent(store: Store, bucket: Bucket): Promise<boolean> {
  return (await store.registry.load(bucket.name)).generation === bucket.generation;
}

/** Marks the bucket as wholly indexed, unless it has changed meanwhile. Its columns stay, so its table is not locked. */
async function finish(client: pg.PoolClient, bucket: Bucket): Promise<void> {
  const { rowCount } = await client.query(
    `UPDATE ${registryTable} SET reindex_active = '{}', generation = nextval('${schemaName}."bucket.generation"')
     WHERE name = $1 AND generation = $2`,
    [bucket.name, bucket.generation],
  );
  if (rowCount !== 1) throw new StaleBucket(bucket);
  await client.query(`DELETE FROM ${reindexTable} WHERE name = $1`, [bucket.name]);
  await ring(client, bucket.name);
}

interface Answer {
  readonly processed: number;
  readonly remaining?: number;
}

/** reindexObjects: clients call it until nothing was left to do. */
export function reindexRpcs(store: Store): RpcTable {
  const { readers } = store.database;

  async function call(bucket: Bucket, count: number, noCount: boolean): Promise<Answer> {
    const { processed, progress } = await reindex(store, bucket, count);
    if (processed === 0) await transaction(readers, (client) => finish(client, bucket));
    const left = await reading(readers, async (client) => {
      if (progress === undefined) return 0;
      await saveProgress(client, bucket, progress);
      return remaining(client, bucket, progress);
    });
    setReindexLeft(bucket.name, left);
    return noCount ? { processed } : { processed, remaining: left };
  }

  return {
    async reindexObjects({ args, send }) {
      const [name, count, options] = parseArguments('reindexObjects', args, [
        ['bucket', 'string'],
        ['count', 'integer'],
        ['options', 'options'],
      ]);
      if (count < 1) throw new CongerError('InvocationError', `count ${count} < 1`);
      let used: Bucket | undefined;
      try {
        const result = await withBucket(store.registry, name, true, async (bucket): Promise<Answer> => {
          used = bucket;
          if (!bucket.tracked) return { processed: 0 };
          return call(bucket, count, options.no_count === true);
        });
        if (result.processed === 0) await store.registry.load(name);
        await send([result]);
      } catch (error) {
        throw used === undefined ? error : writeError(error, used);
      }
    },
  };
}
