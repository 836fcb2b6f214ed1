import type { FetchedMessage } from 'kafkajs/src/cluster/index.js';
import { expect, test, vi } from 'vitest';
import { silentLogger } from '../../../runtime/log.ts';
import { record, transaction } from '../../testing/records.ts';
import type { LogBatch, LogRecord } from '../../types.ts';
import { Delivery } from './delivery.ts';
import { fromMessage, toMessage } from './records.ts';

function message(offset: number, one: LogRecord): FetchedMessage {
  const { key, value, headers } = toMessage(one);
  return {
    offset: String(offset),
    key: Buffer.from(key ?? ''),
    value: value as Buffer,
    headers: Object.fromEntries(
      Object.entries(headers ?? {}).map(([name, text]) => [name, Buffer.from(String(text))]),
    ),
    isControlRecord: false,
  };
}

function fetched(from: number, ...numbers: number[]) {
  const messages = numbers.map((n, i) => message(from + i, record(n, 0)));
  return { partition: 0, messages, next: BigInt(from + numbers.length) };
}

function setup(onBatch: (batch: LogBatch) => void | Promise<void>, position = '', tellFrom = 0n) {
  let gaps = 0;
  const progress: bigint[] = [];
  const delivery = new Delivery({
    partition: 0,
    offset: 0n,
    tellFrom,
    position,
    log: silentLogger(),
    onBatch,
    onGap: () => void gaps++,
    onProgress: (_, offset) => void progress.push(offset),
    onRoom: () => void rooms.push(delivery.hasRoom),
  });
  const rooms: boolean[] = [];
  return { delivery, progress, rooms, gaps: () => gaps };
}

const settle = () => new Promise((resolve) => setImmediate(resolve));

test('a record passes through a message unchanged; one that is not ours does not pass', () => {
  const one = record(5, 3, 'ü');
  expect(fromMessage(3, message(0, one))).toEqual(one);
  const good = message(0, one);
  for (const name of ['position', 'xid', 'idx', 'cnt', 'time']) {
    for (const value of [undefined, Buffer.from(''), Buffer.from('-1'), Buffer.from('x')]) {
      expect(fromMessage(3, { ...good, headers: { ...good.headers, [name]: value } })).toBeUndefined();
    }
  }
  expect(fromMessage(3, { ...good, value: null })).toBeUndefined();
});

test('where a transaction ends in its partition passes through a message, and is left out where it shows', () => {
  const part = { ...record(5, 3), index: 4, count: 9, last: 7 };
  expect(fromMessage(3, message(0, part))).toEqual(part);
  const end = { ...part, index: 8, last: 8 };
  expect(toMessage(end).headers).not.toHaveProperty('last');
  // As a writer of 0.1.0 has it.
  const { last: _, ...bare } = part;
  expect(fromMessage(3, message(0, bare))).toEqual(bare);
});

test('a transaction waits for its rest, with room for it, and goes before a gap without it', async () => {
  const batches: LogBatch[] = [];
  const { delivery } = setup((batch) => void batches.push(batch));
  const padded = transaction(2, 0, 5).map((one) => ({ ...one, body: Buffer.alloc(1 << 20) }));
  const all = [record(1, 0), ...padded];
  const push = (from: number, to: number) =>
    delivery.push({
      partition: 0,
      messages: all.slice(from, to).map((one, i) => message(from + i, one)),
      next: BigInt(to),
    });
  push(0, 4);
  await settle();
  expect(batches.map(({ records, cursor }) => [records.length, cursor.offset])).toEqual([[1, '1']]);
  expect(delivery.hasRoom).toBe(true);
  push(4, 6);
  await settle();
  expect(batches.map(({ records, cursor }) => [records.length, cursor.offset]).at(-1)).toEqual([5, '6']);
  delivery.push({
    partition: 0,
    messages: transaction(3, 0, 9)
      .slice(0, 2)
      .map((one, i) => message(6 + i, one)),
    next: 8n,
  });
  await settle();
  expect(batches).toHaveLength(2);
  delivery.outOfRange(20n, 30n);
  await settle();
  expect(batches.at(-1)?.records).toHaveLength(2);
});

test('positions only increase, from the given one on; the cursor is behind what was dropped, too', async () => {
  const batches: LogBatch[] = [];
  const { delivery } = setup((batch) => void batches.push(batch), record(2, 0).position);
  delivery.push(fetched(0, 1, 2, 3, 4, 3, 4));
  delivery.push(fetched(6, 4, 2));
  delivery.push(fetched(8, 5));
  await settle();
  expect(batches.map(({ records }) => records.map(({ time }) => time % 1000))).toEqual([[3, 4], [5]]);
  expect(batches.map(({ cursor }) => cursor)).toEqual([
    { position: record(4, 0).position, offset: '6' },
    { position: record(5, 0).position, offset: '9' },
  ]);
});

test('what is read before it is to be told tells where repetitions end', async () => {
  const batches: LogBatch[] = [];
  const { delivery } = setup((batch) => void batches.push(batch), '', 7n);
  // At 5 a writer that had been taken over repeats 3 to 5, and its successor goes on with 6.
  delivery.push(fetched(0, 1, 2, 3, 4, 5, 3, 4, 5, 6));
  await settle();
  expect(batches.flatMap(({ records }) => records)).toEqual([record(6, 0)]);
});

test('what comes while a batch is handled comes in the next one, and the cursor is behind its own records', async () => {
  const batches: LogBatch[] = [];
  let go: () => void = () => {};
  const { delivery, progress } = setup(async (batch) => {
    batches.push(batch);
    await new Promise<void>((resolve) => {
      go = resolve;
    });
  });
  delivery.push(fetched(0, ...Array.from({ length: 700 }, (_, n) => n + 1)));
  delivery.push(fetched(700, 701));
  expect(batches[0]?.records).toHaveLength(500);
  expect(batches[0]?.cursor.offset).toBe('500');
  expect(progress).toEqual([]);
  go();
  await settle();
  expect(batches[1]?.records).toHaveLength(201);
  expect(progress).toEqual([500n]);
  go();
  await settle();
  expect(progress.at(-1)).toBe(701n);
});

test('a batch that is refused comes again, the same one, until it is taken or the delivery stops', async () => {
  const offered: LogBatch[] = [];
  const { delivery, progress } = setup((batch) => {
    offered.push(batch);
    throw new Error('refused');
  });
  delivery.push(fetched(0, 1, 2));
  delivery.push(fetched(2, 3));
  await vi.waitFor(() => expect(offered.length).toBeGreaterThan(2), { timeout: 30_000 });
  expect(new Set(offered).size).toBe(1);
  await delivery.stop();
  const count = offered.length;
  delivery.push(fetched(3, 4));
  await settle();
  expect(offered).toHaveLength(count);
  expect(progress).toEqual([]);
});

test('too much in the queue closes it, and says when there is room again', async () => {
  let go: () => void = () => {};
  const { delivery, rooms } = setup(
    () =>
      new Promise((resolve) => {
        go = resolve;
      }),
  );
  const large = (n: number) => message(n, record(n, 0, 'x'.repeat(900_000)));
  delivery.push({ partition: 0, messages: [1, 2, 3, 4].map(large), next: 5n });
  expect(delivery.hasRoom).toBe(false);
  go();
  await settle();
  expect(delivery.hasRoom).toBe(true);
  expect(rooms).toEqual([true]);
});

test('where a gap is taken and what lies behind it waits for its rest, there is room again', async () => {
  let go: () => void = () => {};
  const { delivery, rooms } = setup(
    () =>
      new Promise((resolve) => {
        go = resolve;
      }),
  );
  delivery.push(fetched(0, 1));
  delivery.outOfRange(20n, 30n);
  const padded = transaction(2, 0, 5).map((one) => ({ ...one, body: Buffer.alloc(1 << 20) }));
  delivery.push({
    partition: 0,
    messages: padded.slice(0, 3).map((one, i) => message(20 + i, one)),
    next: 23n,
  });
  expect(delivery.hasRoom).toBe(false);
  go();
  await settle();
  expect(delivery.hasRoom).toBe(true);
  expect(rooms).toEqual([true]);
});

test('who begins at the oldest record has missed nothing; who stood at the start of an empty partition has', async () => {
  const late = setup(() => {});
  late.delivery.outOfRange(20n, 30n);
  const waiting = setup(() => {});
  waiting.delivery.push(undefined);
  waiting.delivery.outOfRange(20n, 30n);
  await settle();
  for (const { delivery } of [late, waiting]) expect(delivery.from).toBe(20n);
  expect([late.gaps(), waiting.gaps()]).toEqual([0, 1]);
});
