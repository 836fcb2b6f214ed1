import type pg from 'pg';
import type { Bucket } from './bucket.ts';
import { exchange, type TextRow, textArray } from './exchange.ts';
import { orderTable, quote, registryTable } from './identifiers.ts';
import type { Write } from './write.ts';

/**
 * The one statement that every put and delete goes through: any number of them, of distinct keys of one bucket.
 *
 * It locks the rows that exist, in the order of their keys, and sees each as it was last committed, which may be
 * later than the statement's own snapshot; so what it checks is what it then overwrites. An object that another
 * transaction inserts after the snapshot is not seen: the insert then does nothing, and the row's outcome is `race`.
 * Of the rows that were really written, and no others, it emits the changes. For a bucket of another generation than
 * the statement was made for it does nothing at all: the registry's row cannot change while the statement runs,
 * since whoever changes a bucket locks its table first.
 *
 * In a bucket that guarantees an order, puts take the next numbers for their `_txn_snap` before anything else, and with
 * them a lock that they keep until they commit: so numbers grow in the order of commits, and its groups go one by one.
 */

export type Outcome =
  | { readonly kind: 'written' }
  /** The object is not as the write's check wants it. */
  | { readonly kind: 'conflict'; readonly actual: string | null }
  /** There is nothing to delete. */
  | { readonly kind: 'missing' }
  /** Not inserted: the key, or a unique value, has just been inserted by another, or is in the same statement. */
  | { readonly kind: 'race' }
  /** Not made since another write of the same whole was not. */
  | { readonly kind: 'withheld' };

/**
 * `each`: every write for itself. `whole`: all of them or none, and rather than a race, PostgreSQL's own error of a
 * unique violation.
 */
export type Unit = 'each' | 'whole';

const fixed = ['k', 'kind', 'want', 'v', 'etag', 'partition', 'head', 'vnode'];

/** Takes a number for each write of the statement, unless all are deletes. */
const takeNumbers = `snap AS (
      INSERT INTO ${orderTable} AS o (name, id)
      SELECT $1, count(*) FROM input HAVING bool_or(v IS NOT NULL)
      ON CONFLICT (name) DO UPDATE SET id = o.id + excluded.id RETURNING id
    ),`;

function compose(bucket: Bucket, unit: Unit): string {
  const columns = bucket.columns.map((c, i) => ({ name: quote(c.name), value: `ok.c${i}::${c.info.pg}` }));
  const aliases = [...fixed, ...columns.map((_, i) => `c${i}`)];
  const parameters = aliases.map((_, i) => `$${i + 4}::text[]`);
  const keys = '$4::text[]';
  const puts: [string, string][] = [
    ['_value', 'ok.v'],
    ['_etag', 'ok.etag'],
    ['_mtime', '$3::bigint'],
    ['_vnode', 'ok.vnode::bigint'],
    ['_rver', String(bucket.version)],
    ['_pkey', 'ok.partition'],
    ...(bucket.ordered ? [['_txn_snap', 'ok.snap::integer'] as [string, string]] : []),
    ...columns.map((c): [string, string] => [c.name, c.value]),
  ];
  const whole = unit === 'whole';
  const fit = whole ? ' AND (SELECT holds FROM fit)' : '';
  const change = `pg_logical_emit_message(true,
      'conger/' || CASE WHEN ok.v IS NULL THEN ok.old_partition ELSE ok.partition END,
      ok.head || coalesce(ok.v, 'null') || ',"previous":' || coalesce(ok.old, 'null') || '}')`;
  return `
    WITH input AS MATERIALIZED (
      SELECT i.* FROM unnest(${parameters.join(', ')}) WITH ORDINALITY AS i(${aliases.join(', ')}, n)
      WHERE EXISTS (SELECT FROM ${registryTable} WHERE name = $1 AND generation = $2::bigint)
    ), ${bucket.ordered ? takeNumbers : ''} cur AS MATERIALIZED (
      SELECT _key, _etag, _value, _pkey FROM ${bucket.table}
      WHERE _key = ANY (${keys}) ${bucket.ordered ? 'AND (SELECT count(*) FROM snap) >= 0' : ''} ORDER BY _key FOR UPDATE
    ), ok AS MATERIALIZED (
      SELECT i.*, c._key IS NOT NULL AS found, c._etag AS actual, c._value AS old, c._pkey AS old_partition,
        CASE i.kind WHEN 'any' THEN true WHEN 'none' THEN c._key IS NULL ELSE c._etag IS NOT DISTINCT FROM i.want END
          AS allowed${bucket.ordered ? ', (SELECT id FROM snap) - count(*) OVER () + i.n AS snap' : ''}
      FROM input i LEFT JOIN cur c ON c._key = i.k
    )${whole ? `, fit AS MATERIALIZED (SELECT bool_and(allowed AND (found OR v IS NOT NULL)) AS holds FROM ok)` : ''}, upd AS (
      UPDATE ${bucket.table} t SET ${puts.map(([name, value]) => `${name} = ${value}`).join(', ')}
      FROM ok WHERE t._key = ANY (${keys}) AND t._key = ok.k AND ok.found AND ok.allowed AND ok.v IS NOT NULL${fit}
      RETURNING t._key
    ), ins AS (
      INSERT INTO ${bucket.table} (_key, ${puts.map(([name]) => name).join(', ')})
      SELECT ok.k, ${puts.map(([, value]) => value).join(', ')}
      FROM ok WHERE NOT ok.found AND ok.allowed AND ok.v IS NOT NULL${fit} ORDER BY ok.k COLLATE "C"
      ${whole ? '' : 'ON CONFLICT DO NOTHING'}
      RETURNING _key
    ), del AS (
      DELETE FROM ${bucket.table} t USING ok
      WHERE t._key = ANY (${keys}) AND t._key = ok.k AND ok.found AND ok.allowed AND ok.v IS NULL${fit}
      RETURNING t._key
    ), done AS (
      SELECT _key FROM upd UNION ALL SELECT _key FROM ins UNION ALL SELECT _key FROM del
    )
    SELECT ok.n::integer,
      CASE WHEN done._key IS NOT NULL THEN 'written' WHEN ok.v IS NULL AND NOT ok.found THEN 'missing'
        WHEN NOT ok.allowed THEN 'conflict' ELSE '${whole ? 'withheld' : 'race'}' END,
      ok.actual${bucket.feed ? `, CASE WHEN done._key IS NOT NULL THEN ${change} END` : ''}
    FROM ok LEFT JOIN done ON done._key = ok.k ORDER BY ok.n`;
}

const composed: Readonly<Record<Unit, WeakMap<Bucket, string>>> = {
  each: new WeakMap(),
  whole: new WeakMap(),
};

function statementFor(bucket: Bucket, unit: Unit): string {
  let text = composed[unit].get(bucket);
  if (text === undefined) {
    text = compose(bucket, unit);
    composed[unit].set(bucket, text);
  }
  return text;
}

function outcomeOf([, kind, actual]: TextRow): Outcome {
  switch (kind) {
    case 'conflict':
      return { kind, actual: actual ?? null };
    case 'written':
    case 'missing':
    case 'race':
    case 'withheld':
      return { kind };
    default:
      throw new Error(`a write ended as ${kind}`);
  }
}

/**
 * Writes `writes`, whose keys are distinct, and answers one outcome each, in order; undefined where the bucket is
 * out of date and nothing was written.
 */
export async function executeWrites(
  client: pg.PoolClient,
  bucket: Bucket,
  writes: readonly Write[],
  unit: Unit,
): Promise<readonly Outcome[] | undefined> {
  const fields: ((write: Write) => string | null)[] = [
    (w) => w.key,
    (w) => w.check.kind,
    (w) => (w.check.kind === 'etag' ? w.check.etag : null),
    (w) => w.text,
    (w) => w.etag,
    (w) => w.partition,
    (w) => w.head,
    (w) => w.vnode,
    ...bucket.columns.map((_, i) => (w: Write) => w.columns[i] ?? null),
  ];
  const rows = await exchange(client, {
    text: statementFor(bucket, unit),
    values: [
      bucket.name,
      bucket.generation,
      String(Date.now()),
      ...fields.map((field) => textArray(writes.map(field))),
    ],
  });
  if (rows.length === 0) return undefined;
  if (rows.length !== writes.length) throw new Error(`${writes.length} writes had ${rows.length} outcomes`);
  return rows.map(outcomeOf);
}
