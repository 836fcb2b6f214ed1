import { expect, test } from 'vitest';
import { partitionOf } from '../change.ts';
import { Assembler, CHANGE_PREFIX } from './assembler.ts';
import type { PgOutput } from './pgoutput.ts';
import { SpoolRoom } from './spool.ts';

const room = new SpoolRoom();

const begin = (lsn: bigint, xid32 = 9): PgOutput => ({ kind: 'begin', commitLsn: lsn, time: 5, xid32 });
const commit = (lsn: bigint): PgOutput => ({ kind: 'commit', commitLsn: lsn, endLsn: lsn + 8n });
const change = (key: string, body: string, transactional = true): PgOutput => ({
  kind: 'message',
  transactional,
  prefix: CHANGE_PREFIX + key,
  content: Buffer.from(body),
});

test('a transaction comes out whole at its commit, its records counted and placed', () => {
  const assembler = new Assembler(2, 8, room);
  expect(assembler.push(begin(16n))).toBeUndefined();
  expect(assembler.midway).toBe(true);
  expect(assembler.push(change('a', 'one'))).toBeUndefined();
  expect(assembler.push(change('b/c', 'two'))).toBeUndefined();
  const out = assembler.push(commit(16n));
  expect(assembler.midway).toBe(false);
  expect(out).toMatchObject({ xid32: 9, endLsn: 24n, bytes: 6 });
  expect(out?.records).toEqual([
    {
      position: '00000002-0000000000000010-00000000',
      partition: partitionOf('a', 8),
      partitionKey: 'a',
      index: 0,
      count: 2,
      time: 5,
      body: Buffer.from('one'),
    },
    {
      position: '00000002-0000000000000010-00000001',
      partition: partitionOf('b/c', 8),
      partitionKey: 'b/c',
      index: 1,
      count: 2,
      time: 5,
      body: Buffer.from('two'),
    },
  ]);
});

test('messages of others, and those outside of transactions, are no changes', () => {
  const assembler = new Assembler(1, 8, room);
  assembler.push(change('a', 'loose', false));
  assembler.push(begin(16n));
  assembler.push({ kind: 'message', transactional: true, prefix: 'conger', content: Buffer.from('x') });
  assembler.push({ kind: 'message', transactional: true, prefix: 'pg/conger/a', content: Buffer.from('x') });
  assembler.push(change('a', 'loose', false));
  expect(assembler.push(commit(16n))).toEqual({ xid32: 9, endLsn: 24n, bytes: 0, records: [] });
});

test('a body outlives the buffer that it came in', () => {
  const assembler = new Assembler(1, 8, room);
  const content = Buffer.from('body');
  assembler.push(begin(16n));
  assembler.push({ kind: 'message', transactional: true, prefix: `${CHANGE_PREFIX}a`, content });
  content.fill(0);
  expect(assembler.push(commit(16n))?.records[0]?.body.toString()).toBe('body');
});

test('what cannot be placed in a transaction is a fault', () => {
  expect(() => new Assembler(1, 8, room).push(commit(1n))).toThrow(/outside/);
  expect(() => new Assembler(1, 8, room).push(change('a', 'x'))).toThrow(/outside/);
});
