import type pg from 'pg';
import { CongerError } from '../../runtime/errors.ts';
import type { RpcTable } from '../rpc.ts';
import { parseArguments } from './arguments.ts';
import type { Bucket } from './bucket.ts';
import { transaction } from './database.ts';
import { quote, registryTable, schemaName } from './identifiers.ts';
import { StaleBucket, withBucket } from './retry.ts';
import { writeError } from './sql-errors.ts';
import type { Store } from './store.ts';
import { encodeField, TypeMismatch } from './values.ts';

interface Outdated {
  readonly _key: string;
  readonly _value: string;
}

/** The fields of a stored value as columns; what does not have its index's type is left out of that index. */
function columnsOf(store: Store, bucket: Bucket, row: Outdated): (string | null)[] {
  const value = JSON.parse(row._value) as Record<string, unknown>;
  return bucket.columns.map(({ field, type, info }) => {
    try {
      return encodeField(info, value[field]).text;
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

/** Fills in the columns of up to `count` objects that were last written under an older version of the bucket. */
async function fill(store: Store, client: pg.PoolClient, bucket: Bucket, count: number): Promise<number> {
  const { rows } = await client.query<Outdated>(
    `SELECT _key, _value FROM ${bucket.table} WHERE _rver IS NULL OR _rver < $1 ORDER BY _key LIMIT $2 FOR UPDATE`,
    [bucket.version, count],
  );
  if (rows.length === 0) return 0;
  const encoded = rows.map((row) => columnsOf(store, bucket, row));
  const sets = bucket.columns.map((c, i) => `, ${quote(c.field)} = i.c${i}::${c.info.pg}`);
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

async function remaining(client: pg.PoolClient, bucket: Bucket): Promise<number> {
  const { rows } = await client.query<{ count: string }>(
    `SELECT count(*) FROM ${bucket.table} WHERE _rver IS NULL OR _rver < $1`,
    [bucket.version],
  );
  return Number(rows[0]?.count ?? 0);
}

/** Marks the bucket as wholly indexed, unless it has changed meanwhile. */
async function finish(client: pg.PoolClient, bucket: Bucket): Promise<void> {
  const { rowCount } = await client.query(
    `UPDATE ${registryTable} SET reindex_active = '{}', generation = nextval('${schemaName}."bucket.generation"')
     WHERE name = $1 AND generation = $2`,
    [bucket.name, bucket.generation],
  );
  if (rowCount !== 1) throw new StaleBucket(bucket);
}

/** reindexObjects: one chunk a call, in a transaction; clients call until nothing was left to do. */
export function reindexRpcs(store: Store): RpcTable {
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
        const result = await withBucket(store.registry, name, true, async (bucket) => {
          used = bucket;
          if (!bucket.tracked) return { processed: 0 };
          return transaction(store.database.readers, async (client) => {
            const processed = await fill(store, client, bucket, count);
            if (processed === 0) await finish(client, bucket);
            if (options.no_count) return { processed };
            return { processed, remaining: processed === 0 ? 0 : await remaining(client, bucket) };
          });
        });
        if (result.processed === 0) await store.registry.load(name);
        await send([result]);
      } catch (error) {
        throw used === undefined ? error : writeError(error, used);
      }
    },
  };
}
