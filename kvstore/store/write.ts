import { CongerError } from '../../runtime/errors.ts';
import type { Bucket } from './bucket.ts';
import { invalidIndexType } from './errors.ts';
import { etagOf } from './etag.ts';
import { encodeField } from './values.ts';

/** A condition on the object as it is before a write: any, none (there must be no object), or of this etag. */
export type Check =
  | { readonly kind: 'any' }
  | { readonly kind: 'none' }
  | { readonly kind: 'etag'; readonly etag: string };

/** Whose doing a write is; travels in the change that it causes. */
export interface Origin {
  readonly requestId: string | null;
  readonly traceparent: string | null;
}

/** One put or delete, encoded for one generation of its bucket. */
export interface Write {
  readonly key: string;
  readonly check: Check;
  /** The value's JSON; null: a delete. */
  readonly text: string | null;
  readonly etag: string | null;
  /** The partition key of the change; a delete takes the stored one. */
  readonly partition: string | null;
  /** The change's JSON up to where the value goes. */
  readonly head: string;
  readonly vnode: string | null;
  /** One text a column of the bucket, in order. */
  readonly columns: readonly (string | null)[];
}

export const anyObject: Check = { kind: 'any' };

/**
 * The most that a value may take as JSON, in bytes of UTF-8. A change carries the value and the one before it, and the
 * largest record of Kafka's topic is 8 MiB: what is refused here is never a change that stops the capture.
 */
const maxValueBytes = 3 * 1024 * 1024;
const maxPartitionKeyBytes = 64 * 1024;

function head(
  bucket: Bucket,
  key: string,
  op: 'put' | 'delete',
  etag: string | null,
  origin: Origin,
): string {
  if (!bucket.feed) return '';
  const { requestId, traceparent } = origin;
  const fields = { v: 1, bucket: bucket.name, key, op, etag, request_id: requestId, traceparent };
  return `${JSON.stringify(fields).slice(0, -1)},"value":`;
}

/** What orders the changes of an object: the bucket's partition field of its value, else its key. */
function partitionOf(bucket: Bucket, key: string, value: Readonly<Record<string, unknown>>): string {
  const field = bucket.partition === undefined ? undefined : value[bucket.partition];
  if (typeof field === 'string' && field !== '') return field;
  return typeof field === 'number' || typeof field === 'boolean' ? String(field) : key;
}

/** As UTF-8 all lone surrogates are the same character, so two keys that hold them could be one object's. */
const loneSurrogate = /\p{Surrogate}/u;

function checkKey(key: string): void {
  if (key.includes('\0')) throw new CongerError('InvocationError', 'a key may not contain NUL');
  if (loneSurrogate.test(key))
    throw new CongerError('InvocationError', 'a key may not contain half a character');
}

function checkSize(bucket: Bucket, key: string, text: string): void {
  // A character is one to three bytes for each of its UTF-16 units, so most lengths need no count.
  if (text.length * 3 <= maxValueBytes) return;
  const bytes = Buffer.byteLength(text);
  if (bytes <= maxValueBytes) return;
  const context = { bucket: bucket.name, key, bytes, limit: maxValueBytes };
  throw new CongerError(
    'InvocationError',
    `the value of ${bucket.name}::${key} is too large: ${bytes} bytes as JSON, and the limit is ${maxValueBytes} (3 MiB)`,
    { context },
  );
}

/** @throws InvocationError where the value is nested more deeply than JavaScript can go (some thousand levels) */
function jsonOf(value: unknown): string {
  try {
    return JSON.stringify(value);
  } catch (error) {
    throw new CongerError('InvocationError', 'a value is nested too deeply', { cause: error });
  }
}

function checkPartitionKey(partition: string): void {
  if (partition.includes('\0'))
    throw new CongerError('InvocationError', 'a partition key may not contain NUL');
  if (Buffer.byteLength(partition) > maxPartitionKeyBytes)
    throw new CongerError('InvocationError', `a partition key may not be over ${maxPartitionKeyBytes} bytes`);
}

/** Encodes the columns of `value`, and the value as it is to be read: indexed fields in their canonical form. */
export function encodeColumns(
  bucket: Bucket,
  value: Readonly<Record<string, unknown>>,
): { columns: (string | null)[]; value: Readonly<Record<string, unknown>> } {
  let canonical = value;
  const columns = bucket.columns.map(({ field, type, info, pending }) => {
    const given = Object.hasOwn(value, field) ? value[field] : undefined;
    let encoded: ReturnType<typeof encodeField>;
    try {
      encoded = encodeField(info, given);
    } catch (error) {
      if (pending) return null;
      throw invalidIndexType(field, type, error);
    }
    // Until the configuration is the bucket's own it neither refuses a value nor changes one.
    if (pending) return encoded.text;
    const differs = Array.isArray(given) ? jsonOf(given) !== jsonOf(encoded.json) : given !== encoded.json;
    if (differs) canonical = { ...canonical, [field]: encoded.json };
    return encoded.text;
  });
  return { columns, value: canonical };
}

/**
 * Encodes a put. `etag` overrides the etag of the value (updateObjects gives one to all that it updates).
 * @throws InvalidIndexTypeError
 * @throws InvocationError where the value or a key is more than a change may carry
 */
export function encodePut(
  bucket: Bucket,
  key: string,
  value: Readonly<Record<string, unknown>>,
  check: Check,
  origin: Origin,
  etag?: string,
): Write {
  checkKey(key);
  const encoded = encodeColumns(bucket, value);
  const text = jsonOf(encoded.value);
  checkSize(bucket, key, text);
  const newEtag = etag ?? etagOf(text);
  const partition = partitionOf(bucket, key, value);
  checkPartitionKey(partition);
  return {
    key,
    check,
    text,
    etag: newEtag,
    partition,
    head: head(bucket, key, 'put', newEtag, origin),
    vnode: Number.isSafeInteger(value.vnode) ? String(value.vnode) : null,
    columns: encoded.columns,
  };
}

export function encodeDelete(bucket: Bucket, key: string, check: Check, origin: Origin): Write {
  checkKey(key);
  return {
    key,
    check,
    text: null,
    etag: null,
    partition: null,
    head: head(bucket, key, 'delete', null, origin),
    vnode: null,
    columns: bucket.columns.map(() => null),
  };
}
