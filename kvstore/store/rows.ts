import { CongerError } from '../../runtime/errors.ts';
import { type Bucket, idOf } from './bucket.ts';

/** The columns that make up an object, in the order in which rows come. */
export function objectColumns(bucket: Bucket): string {
  return `_key, _value, _etag, ${idOf(bucket)} AS _id, _mtime, _txn_snap`;
}

/** Numbers come as text. */
export type ObjectRow = [
  key: string,
  value: string,
  etag: string,
  id: string,
  mtime: string,
  txnSnap: string | null,
];

/** An object as it goes to clients. */
export interface StoredObject {
  readonly bucket: string;
  readonly key: string;
  readonly value: Record<string, unknown>;
  readonly _id: number;
  readonly _etag: string;
  readonly _mtime: number;
  readonly _txn_snap: number | null;
  /** How many objects match the whole query; null where it was not counted. */
  readonly _count: number | null;
}

/** @throws InternalError where it is none, or one that JavaScript cannot hold */
function checkId(bucket: string, key: string, id: string | null): void {
  if (id !== null && (id.length <= 15 || Number.isSafeInteger(Number(id)))) return;
  throw new CongerError('InternalError', `${bucket}::${key} has an invalid _id: ${id}`, {
    context: { bucket, key },
  });
}

/** @throws InternalError where its id is invalid */
export function objectOf(bucket: string, row: ObjectRow, count: number | null): StoredObject {
  const [key, value, etag, id, mtime, txnSnap] = row;
  checkId(bucket, key, id);
  return {
    bucket,
    key,
    value: JSON.parse(value) as Record<string, unknown>,
    _id: Number(id),
    _etag: etag,
    _mtime: Number(mtime),
    _txn_snap: txnSnap === null ? null : Number(txnSnap),
    _count: count,
  };
}

/**
 * The JSON of `objectOf(bucket, row, count)`, with the stored value as it is: it is neither parsed nor written anew.
 * Without a count there is no `_count`. Holds as values are stored as the text that JSON.stringify made of them.
 */
export function objectJson(bucket: string, row: ObjectRow, count: number | null | undefined): string {
  const [key, value, etag, id, mtime, txnSnap] = row;
  checkId(bucket, key, id);
  return `{"bucket":${quoted(bucket)},"key":${quoted(key)},"value":${value},"_id":${id},"_etag":${quoted(etag)},"_mtime":${mtime},"_txn_snap":${txnSnap}${count === undefined ? '' : `,"_count":${count}`}}`;
}

const plain = /^[\w.:-]*$/;

/** Most names, keys and etags have nothing to escape, and finding that out costs less than JSON.stringify. */
function quoted(text: string): string {
  return plain.test(text) ? `"${text}"` : JSON.stringify(text);
}
