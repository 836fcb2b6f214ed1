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
      last: 0,
      time: 5,
      body: Buffer.from('one'),
    },
    {
      position: '00000002-0000000000000010-00000001',
      partition: partitionOf('b/c', 8),
      partitionKey: 'b/c',
      index: 1,
      count: 2,
      last: 1,
      time: 5,
      body: Buffer.from('two'),
    },
  ]);
});

test('every record says which is the last of its transaction in its partition, also of a large transaction', async () => {
  const bodies = [10, 1_000_000].map((bytes) => 'x'.repeat(bytes));
  for (const body of bodies) {
    const assembler = new Assembler(1, 2, room);
    const keys = ['a', 'b', 'c', 'a', 'd', 'e', 'a', 'b'];
    const partitions = keys.map((key) => partitionOf(key, 2));
    assembler.push(begin(16n));
    for (const key of keys) assembler.push(change(key, body));
    const out = assembler.push(commit(16n));
    const records = [...(out?.records ?? [])];
    for await (const slice of out?.large?.slices({ records: 3, bytes: 1 << 20 }) ?? [])
      records.push(...slice);
    out?.large?.close();
    expect(out?.large === undefined).toBe(body === bodies[0]);
    expect(new Set(partitions).size).toBe(2);
    expect(records.map(({ last }) => last)).toEqual(partitions.map((p) => partitions.lastIndexOf(p)));
  }
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

const start = (xid32: number): PgOutput => ({ kind: 'stream-start', xid32 });
const stop: PgOutput = { kind: 'stream-stop' };
const streamCommit = (xid32: number, lsn: bigint): PgOutput => ({
  ...{ kind: 'stream-commit', xid32, commitLsn: lsn, endLsn: lsn + 8n },
  time: 5,
});

test('transactions in progress come out at their commits, whatever came in between', () => {
  const assembler = new Assembler(1, 8, room);
  const push = (...messages: PgOutput[]) => messages.map((one) => assembler.push(one)).at(-1);
  push(start(1), change('a', '1.0'), stop, start(2), change('a', '2.0'), stop);
  expect(assembler.inStream).toBe(false);
  expect(assembler.midway).toBe(false);
  const whole = push(begin(16n, 3), change('a', '3.0'), commit(16n));
  push(start(1), change('a', '1.1'));
  expect(assembler.inStream).toBe(true);
  push(stop);
  const bodies = (out: ReturnType<typeof push>) => out?.records.map((one) => [one.position, `${one.body}`]);
  expect(bodies(whole)).toEqual([['00000001-0000000000000010-00000000', '3.0']]);
  expect(bodies(push(streamCommit(2, 32n)))).toEqual([['00000001-0000000000000020-00000000', '2.0']]);
  const last = push(streamCommit(1, 48n));
  expect(bodies(last)).toEqual([
    ['00000001-0000000000000030-00000000', '1.0'],
    ['00000001-0000000000000030-00000001', '1.1'],
  ]);
  expect(last?.records.map(({ count }) => count)).toEqual([2, 2]);
});

test('what is rolled back is gone; a savepoint of which changes came cannot be told apart', () => {
  const assembler = new Assembler(1, 8, room);
  const abort = (xid32: number, subxid32: number) =>
    assembler.push({ kind: 'stream-abort', xid32, subxid32 });
  for (const one of [start(1), change('a', 'x'), stop, start(2), stop]) assembler.push(one);
  abort(2, 7);
  abort(9, 9);
  expect(() => abort(1, 7)).toThrow(expect.objectContaining({ name: 'StreamAnewError', xids32: [1] }));
  abort(1, 1);
  expect(assembler.push(streamCommit(1, 48n))?.records).toEqual([]);
});

test('a transaction that grows goes to disk, and comes from there as it would from memory', async () => {
  const assembler = new Assembler(1, 8, room);
  assembler.push(begin(16n));
  const bodies = Array.from({ length: 30 }, (_, n) => `${n}${'x'.repeat(100_000)}`);
  for (const body of bodies) assembler.push(change('a', body));
  expect(room.size).toBe(1);
  const out = assembler.push(commit(16n));
  expect(out).toMatchObject({ records: [], bytes: 0 });
  const records = [];
  for await (const slice of out?.large?.slices({ records: 7, bytes: 1e9 }) ?? []) records.push(...slice);
  expect(records.map(({ body }) => body.toString())).toEqual(bodies);
  expect(records.map(({ index }) => index)).toEqual(bodies.map((_, n) => n));
  expect(records.every(({ count }) => count === 30)).toBe(true);
  out?.large?.close();
  expect(room.size).toBe(0);
});

test('a transaction that does not fit on the disk comes in pieces, each behind what is in the log', async () => {
  const bodies = Array.from({ length: 80 }, (_, n) => `${n}${'x'.repeat(100_000)}`);
  const tails = ['', ''];
  const appended: { readonly index: number; readonly body: string }[] = [];
  let passes = 0;
  for (let whole = false; !whole; passes++) {
    const assembler = new Assembler(1, 2, new SpoolRoom({ limit: 1_000_000 }), [...tails]);
    assembler.push(begin(16n));
    for (const [n, body] of bodies.entries()) assembler.push(change(`k${n % 3}`, body));
    const large = assembler.push(commit(16n))?.large;
    try {
      for await (const slice of large?.slices({ records: 7, bytes: 1e9 }) ?? []) {
        for (const { position, partition, index, count, body } of slice) {
          expect(position > (tails[partition] ?? '')).toBe(true);
          expect(count).toBe(80);
          tails[partition] = position;
          appended.push({ index, body: body.toString() });
        }
      }
      whole = true;
    } catch (error) {
      expect(error).toMatchObject({ name: 'StreamAnewError', xids32: [9] });
    }
    large?.close();
  }
  expect(passes).toBe(3);
  expect(appended).toEqual(bodies.map((body, index) => ({ index, body })));
});

test('transactions in progress that do not fit on the disk are to come at their commits', () => {
  const assembler = new Assembler(1, 8, new SpoolRoom({ limit: 1_000_000 }));
  const body = 'x'.repeat(100_000);
  const fill = () => {
    for (const xid of [1, 2, 3]) {
      assembler.push(start(xid));
      for (let n = 0; n < 15; n++) assembler.push(change('a', body));
      assembler.push(stop);
    }
  };
  fill();
  expect(fill).toThrow(expect.objectContaining({ name: 'StreamAnewError', xids32: [1, 2, 3] }));
});
