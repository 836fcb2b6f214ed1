import { expect, test } from 'vitest';
import { formatPosition } from './position.ts';
import type { LogRecord } from './types.ts';
import { WHOLE_BYTES, WHOLE_RECORDS, Whole } from './whole.ts';

function record(lsn: number, index: number, last?: number, bytes = 1): LogRecord {
  return {
    position: formatPosition({ epoch: 1, lsn: BigInt(lsn), index }),
    partition: 0,
    partitionKey: 'k',
    xid: '1',
    index,
    count: 1_000_000,
    ...(last === undefined ? {} : { last }),
    time: 0,
    body: Buffer.alloc(bytes),
  };
}

const waits = (...records: LogRecord[]) => {
  const whole = new Whole();
  return records.map((one) => whole.add(one));
};

test('a transaction waits for its last record in the partition, and one of a single record does not', () => {
  expect(waits(record(1, 0, 0), record(2, 3, 9), record(2, 5, 9), record(2, 9, 9), record(3, 7, 7))).toEqual([
    0, 1, 2, 0, 0,
  ]);
});

test('nothing waits where the writer did not say, nor for what has something behind it', () => {
  expect(waits(record(1, 0), record(1, 1))).toEqual([0, 0]);
  expect(waits(record(1, 0, 9), record(1, 1, 9), record(2, 0, 4), record(3, 0, 0))).toEqual([1, 2, 1, 0]);
  // Begun by a writer that says so, and ended by one that does not.
  expect(waits(record(1, 0, 9), record(1, 1, 9), record(1, 2))).toEqual([1, 2, 0]);
});

test('a transaction that is too large waits up to the bound, and goes on in parts', () => {
  const many = Array.from({ length: WHOLE_RECORDS + 50 }, (_, i) => record(1, i, 10 * WHOLE_RECORDS));
  const waiting = waits(...many, record(2, 0, 1));
  expect(waiting.slice(0, WHOLE_RECORDS - 1)).toEqual(many.slice(1, WHOLE_RECORDS).map((_, i) => i + 1));
  expect(waiting.slice(WHOLE_RECORDS - 1, -1).every((n) => n === 0)).toBe(true);
  expect(waiting.at(-1)).toBe(1);
  const large = Array.from({ length: 6 }, (_, i) => record(1, i, 99, WHOLE_BYTES / 4));
  expect(waits(...large)).toEqual([1, 2, 3, 0, 0, 0]);
});
