import { createHash } from 'node:crypto';

/**
 * The only place where names become SQL. Every name is validated when a bucket is configured, and is quoted here all
 * the same; values never come this way, they are always parameters.
 */

/** The PostgreSQL schema that holds the registry and one table a bucket. */
export const schemaName = 'kv';
export const registryTable = `${schemaName}.buckets_config`;
/** The last `_txn_snap` of each bucket that guarantees an order. */
export const orderTable = `${schemaName}."bucket.order"`;
/** How each bucket is changing, or did last. */
export const changesTable = `${schemaName}."bucket.changes"`;
/** How far each bucket is reindexed. */
export const reindexTable = `${schemaName}."bucket.reindex"`;
/** Locked by the server that builds indexes. */
export const builderSeat = `${schemaName}."bucket.builder"`;

const bucketName = /^[a-zA-Z]\w{0,62}$/;
const fieldName = /^(_[a-zA-Z0-9]+|[a-zA-Z][_a-zA-Z0-9]*[a-zA-Z0-9]|[a-zA-Z])$/;
const reservedBuckets = new Set(['buckets_config', 'moray', 'search']);
const reservedFields = new Set([
  ...[
    '_etag',
    '_id',
    '_idx',
    '_key',
    '_atime',
    '_ctime',
    '_mtime',
    '_rver',
    '_txn_snap',
    '_value',
    '_vnode',
    '_pkey',
  ],
  ...['tableoid', 'ctid', 'xmin', 'xmax', 'cmin', 'cmax'],
]);
const maxIdentifier = 63;

export function isReservedBucket(name: string): boolean {
  return reservedBuckets.has(name);
}

export function isBucketName(name: string): boolean {
  return bucketName.test(name) && !isReservedBucket(name);
}

/** What is wrong with `name` as the name of an index, or undefined. */
export function fieldNameProblem(name: string): string | undefined {
  if (!fieldName.test(name) || name.length > maxIdentifier) return `invalid index name "${name}"`;
  const lower = name.toLowerCase();
  if (reservedFields.has(lower)) return `index name "${name}" is reserved for use by Moray`;
  if (/^_*moray/.test(lower)) return `index names cannot start with "moray": "${name}"`;
  return undefined;
}

export function quote(identifier: string): string {
  return `"${identifier.replaceAll('"', '""')}"`;
}

export function tableOf(bucket: string): string {
  return `${schemaName}.${quote(bucket)}`;
}

/**
 * The name of something that belongs to a bucket (an index, a sequence). The dot keeps it apart from every bucket's
 * name, which shares PostgreSQL's namespace with it.
 */
export function partOf(bucket: string, part: string): string {
  const full = `${bucket}.${part}`;
  if (full.length <= maxIdentifier) return full;
  const digest = createHash('sha256').update(full).digest('hex').slice(0, 16);
  return `${full.slice(0, maxIdentifier - digest.length - 1)}.${digest}`;
}

/**
 * The sequence of a bucket's ids, by Moray's name for it: those who look after large buckets know it. It shares a
 * namespace with the buckets, so there cannot be a bucket `b_serial` beside a bucket `b`.
 */
export function sequenceOf(bucket: string): string {
  const name = `${bucket}_serial`;
  return `${schemaName}.${quote(name.length <= maxIdentifier ? name : partOf(bucket, 'serial'))}`;
}
