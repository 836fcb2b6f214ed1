import type pg from 'pg';
import { type Bucket, idOf } from './bucket.ts';
import { registryTable, reindexTable, tableOf } from './identifiers.ts';
import { StaleBucket } from './retry.ts';

/**
 * How far a bucket is reindexed, by `_id`, which an object keeps for life. All objects up to `low` are done, and so are
 * all beyond `bound`: they came after the columns. Objects never become undone, so `low` only ever rises; what it
 * leaves out (a server that died before it could say how far it was) is walked over once more and found done.
 */
export interface Progress {
  /** Before the first object that there was. */
  readonly first: bigint;
  readonly low: bigint;
  readonly bound: bigint;
  /** How many objects there were, as PostgreSQL estimates it. */
  readonly objects: number;
}

/** An object that is not done: written last under an older version of the bucket. `$1` is the version. */
export const undone = '(_rver IS NULL OR _rver < $1)';

const exactUpTo = 1_000;

/**
 * How far the bucket is; the first call after a change starts from nothing.
 * @throws StaleBucket
 */
export async function openProgress(client: pg.PoolClient, bucket: Bucket): Promise<Progress> {
  const id = idOf(bucket);
  const columns = 'first::text, low::text, bound::text, objects::text';
  const read = await client.query<Record<string, string>>(
    `SELECT ${columns} FROM ${reindexTable} WHERE name = $1 AND version = $2`,
    [bucket.name, bucket.version],
  );
  const made =
    read.rows[0] ??
    (
      await client.query<Record<string, string>>(
        `INSERT INTO ${reindexTable} AS r (name, version, first, low, bound, objects)
         SELECT $1, $2, e.first, e.first, e.bound, greatest(c.reltuples, 0)
         FROM (SELECT coalesce(min(${id}), 1) - 1 AS first, coalesce(max(${id}), 0) AS bound FROM ${bucket.table}) e,
           pg_class c, ${registryTable} g WHERE c.oid = $3::regclass AND g.name = $1 AND g.generation = $4
         FOR SHARE OF g
         ON CONFLICT (name) DO UPDATE SET version = excluded.version, first = excluded.first,
           low = CASE WHEN r.version = excluded.version THEN r.low ELSE excluded.low END,
           bound = excluded.bound, objects = excluded.objects
         RETURNING ${columns}`,
        [bucket.name, bucket.version, tableOf(bucket.name), bucket.generation],
      )
    ).rows[0];
  // Somebody else has finished meanwhile, and nothing is to be left of it.
  if (made === undefined) throw new StaleBucket(bucket);
  const { first = 0, low = 0, bound = 0, objects = 0 } = made;
  return { first: BigInt(first), low: BigInt(low), bound: BigInt(bound), objects: Number(objects) };
}

/** Where all is done up to now; undefined: everywhere. Objects that somebody is at are not done. */
export async function advance(
  client: pg.PoolClient,
  bucket: Bucket,
  progress: Progress,
): Promise<Progress | undefined> {
  const id = idOf(bucket);
  const { rows } = await client.query<{ id: string }>(
    `SELECT (${id})::text AS id FROM ${bucket.table} WHERE ${undone} AND ${id} > $2 AND ${id} <= $3
     ORDER BY ${id} LIMIT 1`,
    [bucket.version, progress.low, progress.bound],
  );
  return rows[0] === undefined ? undefined : { ...progress, low: BigInt(rows[0].id) - 1n };
}

/** For servers that go on from here. Others may be further by now, or the bucket may have changed. */
export async function saveProgress(client: pg.PoolClient, bucket: Bucket, progress: Progress): Promise<void> {
  await client.query(`UPDATE ${reindexTable} SET low = $3 WHERE name = $1 AND version = $2 AND low < $3`, [
    bucket.name,
    bucket.version,
    progress.low,
  ]);
}

/** How many objects are not done: exact up to a thousand, else by how far it is. */
export async function remaining(client: pg.PoolClient, bucket: Bucket, progress: Progress): Promise<number> {
  const { first, low, bound, objects } = progress;
  const id = idOf(bucket);
  const { rows } = await client.query<{ count: number }>(
    `SELECT count(*)::integer AS count FROM (
       SELECT FROM ${bucket.table} WHERE ${undone} AND ${id} > $2 AND ${id} <= $3 ORDER BY ${id}
       LIMIT ${exactUpTo + 1}) n`,
    [bucket.version, low, bound],
  );
  const count = rows[0]?.count ?? 0;
  if (count <= exactUpTo) return count;
  const share = Number(bound - low) / Number(bound - first);
  return Math.max(count, Math.round(share * objects));
}
