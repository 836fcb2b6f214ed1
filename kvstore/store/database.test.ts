import pg from 'pg';
import { describe, expect, test } from 'vitest';
import { CongerError } from '../../runtime/errors.ts';
import { isConnectionLoss } from './database.ts';

function withCode(code: string): Error {
  return Object.assign(new Error('broken'), { code });
}

function answered(code: string): Error {
  return Object.assign(new pg.DatabaseError('no', 2, 'error'), { code });
}

describe('a connection is of no more use after', () => {
  test.each([
    ...['ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'ENETUNREACH', 'ECONNABORTED', 'EAI_AGAIN'].map(withCode),
    ...['ERR_STREAM_DESTROYED', 'ERR_SSL_WRONG_VERSION_NUMBER'].map(withCode),
    new Error('Connection terminated unexpectedly'),
    new Error('Client has encountered a connection error and is not queryable'),
    ...['57P01', '08006', '25P03', '25P04', '25006'].map(answered),
  ])('%o', (error) => {
    expect(isConnectionLoss(error)).toBe(true);
  });
});

describe('a connection serves on after', () => {
  test.each([
    ...['23505', '40P01', '57014', '25P02', '53200'].map(answered),
    ...['ERR_INVALID_ARG_TYPE', 'ABORT_ERR'].map(withCode),
    new TypeError('x is not a function'),
    new Error('the client is gone', { cause: withCode('ECONNRESET') }),
    new CongerError('InvocationError', 'connection closed'),
  ])('%o', (error) => {
    expect(isConnectionLoss(error)).toBe(false);
  });
});
