import type pg from 'pg';
import { CongerError, messageOf } from '../../runtime/errors.ts';
import type { Bucket } from './bucket.ts';
import { indexNames } from './bucket-indexes.ts';
import { stateOf } from './database.ts';
import { etagConflict, invalidIndexType, objectNotFound, uniqueAttribute } from './errors.ts';
import { partOf } from './identifiers.ts';
import type { Write } from './write.ts';
import type { Outcome } from './write-statement.ts';

/** The constraint that keeps a bucket's keys unique. */
export function keyConstraint(bucket: string): string {
  return partOf(bucket, '_key');
}

function databaseError(error: unknown): pg.DatabaseError | undefined {
  return stateOf(error) === undefined ? undefined : (error as pg.DatabaseError);
}

/** Whether the error says that another transaction has just inserted an object of the same key. */
export function isKeyRace(error: unknown, bucket: string): boolean {
  const answer = databaseError(error);
  return answer?.code === '23505' && answer.constraint === keyConstraint(bucket);
}

/** The error of an index that is to be unique from now on, where there are equal values already. */
export function uniqueError(error: unknown): CongerError | undefined {
  const answer = databaseError(error);
  const [, name, value] = /\((.*)\)=\((.*)\) is duplicated/s.exec(answer?.detail ?? '') ?? [];
  return name === undefined ? undefined : uniqueAttribute(unquoted(name), value ?? '', {}, error);
}

function unquoted(name: string): string {
  return name.replace(/^"(.*)"$/, '$1');
}

/** What a client is to see of an error that PostgreSQL answered to a write (of `write`, where it was but one). */
export function writeError(error: unknown, bucket: Bucket, write?: Write): unknown {
  const answer = databaseError(error);
  if (answer === undefined) return error;
  if (answer.code === '23505') {
    const column = bucket.columns.find((c) => indexNames(bucket.name, c).includes(answer.constraint ?? ''));
    const [, name, value] = /\((.*)\)=\((.*)\)/s.exec(answer.detail ?? '') ?? [];
    return uniqueAttribute(
      column?.field ?? unquoted(name ?? ''),
      value ?? '',
      { bucket: bucket.name, key: write?.key },
      error,
    );
  }
  const tooLong = indexLimit(answer, bucket, write);
  if (tooLong !== undefined) return tooLong;
  if (isOutOfIds(answer)) {
    return new CongerError('InternalError', `${bucket.name} has no ids left: ${answer.message}`, {
      context: { bucket: bucket.name },
      cause: error,
    });
  }
  if (answer.code?.startsWith('22') && answer.code !== '22021') {
    const column = bucket.columns.find((c) => answer.message.includes(c.info.pg));
    return invalidIndexType(column?.field ?? '', column?.type ?? 'unknown', error);
  }
  return queryError(error);
}

/** The sequence is at its end; or the column is, where it has 32 bits, as no field's has. */
function isOutOfIds({ code, message }: pg.DatabaseError): boolean {
  return code === '2200H' || (code === '22003' && message === 'integer out of range');
}

/**
 * The error of a value that is longer than an entry of its index may be. PostgreSQL does not always say which index
 * that was; then it is the longest value's.
 */
function indexLimit(answer: pg.DatabaseError, bucket: Bucket, write?: Write): CongerError | undefined {
  const [, limit, index] =
    /^index row .*maximum (?:size is )?(\d+)(?: for index "(.*)")?$/.exec(answer.message) ?? [];
  if (answer.code !== '54000' || limit === undefined) return undefined;
  const lengths = new Map([['_key', write?.key.length ?? 0]]);
  for (const [i, column] of bucket.columns.entries()) {
    const named = index !== undefined && indexNames(bucket.name, column).includes(index);
    lengths.set(column.field, named ? Number.POSITIVE_INFINITY : (write?.columns[i]?.length ?? 0));
  }
  const [[field] = ['_key']] = [...lengths].sort(([, a], [, b]) => b - a);
  return new CongerError(
    'InvocationError',
    `the value of "${field}" is too long for its index, which takes at most ${limit} bytes (compressed)`,
    { context: { bucket: bucket.name, key: write?.key, field, limit: Number(limit) }, cause: answer },
  );
}

/** What a client is to see of a write that was not made. */
export function outcomeError(bucket: string, write: Write, outcome: Outcome | undefined): CongerError {
  if (outcome?.kind === 'missing') return objectNotFound(bucket, write.key);
  if (outcome?.kind === 'conflict') {
    const expected = write.check.kind === 'etag' ? write.check.etag : null;
    return etagConflict(bucket, write.key, expected, outcome.actual);
  }
  return new CongerError('InternalError', `a write to ${bucket}::${write.key} has no outcome`);
}

/** What a client is to see of any other error that PostgreSQL answered. */
export function queryError(error: unknown): unknown {
  const answer = databaseError(error);
  if (answer === undefined) return error;
  switch (answer.code) {
    case '57014':
      return new CongerError('QueryTimeoutError', `query timeout: ${answer.message}`, { cause: error });
    case '53100':
    case '53200':
    case '53300':
      return new CongerError('OverloadedError', `PostgreSQL is short of resources: ${answer.message}`, {
        context: { retryAfterMs: 1000 },
        cause: error,
      });
    case '22021':
      return new CongerError('InvocationError', 'text may not contain NUL', { cause: error });
    default: {
      // Of these two classes it is a value (22), or how much there is of something (54), that PostgreSQL refuses.
      const code = /^(22|54)/.test(answer.code ?? '') ? 'InvocationError' : 'InternalError';
      return new CongerError(code, messageOf(error), { context: { sqlstate: answer.code }, cause: error });
    }
  }
}
