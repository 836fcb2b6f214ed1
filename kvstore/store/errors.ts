import { CongerError, messageOf } from '../../runtime/errors.ts';

/** Errors of the store, with Moray's names, messages and contexts. */

export function bucketNotFound(bucket: string): CongerError {
  return new CongerError('BucketNotFoundError', `${bucket} does not exist`, { context: { bucket } });
}

export function invalidBucketName(bucket: string): CongerError {
  return new CongerError('InvalidBucketNameError', `${bucket} is not a valid bucket name`, {
    context: { bucket },
  });
}

export function bucketConflict(bucket: string, cause?: unknown): CongerError {
  return new CongerError('BucketConflictError', `${bucket} was likely being concurrently updated`, {
    context: { bucket },
    cause,
  });
}

export function bucketVersion(bucket: string, current: number, given: number): CongerError {
  const message = `${bucket} has a newer version than ${given} (${current})`;
  return new CongerError('BucketVersionError', message, { context: { bucket, current, given } });
}

export function objectNotFound(bucket: string, key: string): CongerError {
  return new CongerError('ObjectNotFoundError', `${bucket}::${key} does not exist`, {
    context: { bucket, key },
  });
}

export function etagConflict(
  bucket: string,
  key: string,
  expected: string | null,
  actual: string | null,
): CongerError {
  const context = { bucket, key, expected: expected ?? 'null', actual: actual ?? 'null' };
  const message = `${bucket}::${key} was expected to have etag "${context.expected}", but was "${context.actual}"`;
  return new CongerError('EtagConflictError', message, { context });
}

export function uniqueAttribute(
  attribute: string,
  value: string,
  context: object,
  cause: unknown,
): CongerError {
  return new CongerError(
    'UniqueAttributeError',
    `"${attribute}" is a unique attribute; value "${value}" already exists`,
    { context: { ...context, attribute, value }, cause },
  );
}

export function invalidIndexType(field: string, type: string, cause?: unknown): CongerError {
  const detail = cause === undefined ? '' : ` (${messageOf(cause)})`;
  return new CongerError('InvalidIndexTypeError', `index(${field}) is of type ${type}${detail}`, {
    context: { field, type },
    cause,
  });
}

export function invalidQuery(filter: string, cause?: unknown): CongerError {
  const detail = cause === undefined ? '' : `: ${messageOf(cause)}`;
  return new CongerError('InvalidQueryError', `${filter} is an invalid filter${detail}`, { cause });
}

export function notIndexed(
  bucket: string,
  filter: string,
  fields?: { readonly unindexedFields: readonly string[]; readonly reindexingFields: readonly string[] },
): CongerError {
  const message = `${bucket} does not have indexes that support ${filter}`;
  if (fields === undefined) return new CongerError('NotIndexedError', message, { context: { bucket } });
  const { unindexedFields, reindexingFields } = fields;
  return new CongerError(
    'NotIndexedError',
    `${message}. Reindexing fields: ${listed(reindexingFields)}. Unindexed fields: ${listed(unindexedFields)}`,
    { context: { bucket, unindexedFields, reindexingFields } },
  );
}

/** Names as Moray's messages have them, which programs look into: `[ 'a', 'b' ]`. */
function listed(names: readonly string[]): string {
  return names.length === 0 ? '[]' : `[ ${names.map((name) => `'${name}'`).join(', ')} ]`;
}

export function notNullable(field: string, type: string): CongerError {
  return new CongerError(
    'NotNullableError',
    `index "${field}" (of type "${type}") cannot store null values`,
    { context: { field, type } },
  );
}

export function overloaded(waiting: number): CongerError {
  return new CongerError('OverloadedError', `${waiting} calls are waiting; try again shortly`, {
    context: { waiting, retryAfterMs: 100 },
  });
}
