import { randomUUID } from 'node:crypto';
import { connect, Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Kafka, logLevel, Partitioners } from 'kafkajs';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { silentLogger } from '../../../runtime/log.ts';
import {
  asAdmin,
  deleteTopic,
  kafkaAvailable,
  startKafka,
  type TestKafka,
} from '../../../test/fixtures/kafka.ts';
import { formatPosition } from '../../position.ts';
import { appendInTheEnd } from '../../testing/append.ts';
import { Member } from '../../testing/member.ts';
import type { LogBatch, LogReader, LogRecord, LogWriter } from '../../types.ts';
import { createKafkaReader, createKafkaWriter, type KafkaOptions } from './index.ts';
import { toMessage } from './records.ts';
import { ensureTopic } from './topic.ts';

const partitions = 3;

function record(n: number, partition = n % partitions, bytes = 0): LogRecord {
  return {
    position: formatPosition({ epoch: 1, lsn: BigInt(n), index: 0 }),
    partition,
    partitionKey: `key ${partition} é`,
    xid: String(n),
    index: 0,
    count: 1,
    time: 1_700_000_000_000 + n,
    body: Buffer.from(JSON.stringify({ n, pad: 'x'.repeat(bytes) })),
  };
}

const patiently = { timeout: 90_000 };

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);
const numberOf = ({ xid }: LogRecord) => Number(xid);

describe.skipIf(!(await kafkaAvailable()))('the Kafka log', { timeout: 240_000 }, () => {
  let kafka: TestKafka;
  let options: KafkaOptions;
  const open: { close(): Promise<void> }[] = [];

  beforeAll(async () => {
    kafka = await startKafka();
  }, 300_000);
  afterAll(() => kafka?.stop());
  afterEach(async () => {
    await Promise.all(open.splice(0).map((part) => part.close()));
  });

  function fresh(): void {
    const topic = `changes-${randomUUID()}`;
    options = { brokers: kafka.brokers, topic, partitions, replicas: 1, log: silentLogger() };
  }
  async function writer(): Promise<LogWriter> {
    const made = await createKafkaWriter(options);
    open.push(made);
    return made;
  }
  async function reader(): Promise<LogReader> {
    const made = await createKafkaReader(options);
    open.push(made);
    return made;
  }
  /** Appends what an old writer would: messages that nothing checks. */
  async function smuggle(
    records: readonly LogRecord[],
    transactionalId?: string,
    end: 'commit' | 'abort' = 'commit',
  ): Promise<void> {
    const client = new Kafka({
      brokers: kafka.brokers,
      logLevel: logLevel.NOTHING,
      connectionTimeout: 10_000,
      retry: { retries: 20, maxRetryTime: 2_000 },
    });
    const producer = client.producer({
      createPartitioner: Partitioners.DefaultPartitioner,
      ...(transactionalId === undefined ? {} : { transactionalId, idempotent: true, maxInFlightRequests: 1 }),
    });
    await producer.connect();
    const messages = records.map(toMessage);
    if (transactionalId === undefined) await producer.send({ topic: options.topic, messages });
    else {
      const transaction = await producer.transaction();
      await transaction.send({ topic: options.topic, messages });
      await transaction[end]();
    }
    await producer.disconnect();
  }

  /** Deletes the topic and makes it again, under readers whose connections stay. */
  async function remake(): Promise<void> {
    await deleteTopic(kafka.brokers, options.topic);
    await ensureTopic(options);
  }

  test('readAll has read everything that was there when it resolves, over a slow handler', async () => {
    fresh();
    const log = await writer();
    await log.open();
    await log.append(range(0, 6_000).map((n) => record(n, 1, 300)));
    let count = 0;
    await (await reader()).readAll(5_000, async ({ records }) => {
      await sleep(1);
      count += records.length;
    });
    expect(count).toBe(5_000);
  });

  test('opening answers the furthest position of each partition, behind transaction markers and repetitions', async () => {
    fresh();
    const log = await writer();
    await log.open();
    await log.append([record(1, 0), record(2, 0), record(3, 1)]);
    await smuggle([record(1, 0)]);
    for (let n = 0; n < 40; n++) await smuggle([record(4, 1)], 'old-capture', n === 0 ? 'commit' : 'abort');
    expect(await log.open()).toEqual([record(2).position, record(4).position, '']);
  });

  test('markers alone at the end hide nothing', async () => {
    fresh();
    const log = await writer();
    await log.open();
    await smuggle([record(1, 0)], 'old-capture');
    expect((await log.open())[0]).toBe(record(1).position);
    const seen: number[] = [];
    await (await reader()).readAll(1, ({ records }) => void seen.push(...records.map(numberOf)));
    await log.append([record(2, 0)]);
    await vi.waitFor(() => expect(seen.at(-1)).toBe(2), patiently);
  });

  test('what a writer that was paused appends again is dropped, and foreign records with it', async () => {
    fresh();
    const log = await writer();
    await log.open();
    const seen: number[] = [];
    await (await reader()).readAll(0, ({ records }) => void seen.push(...records.map(numberOf)));
    await log.append(range(1, 6).map((n) => record(n, 0)));
    await smuggle(range(3, 8).map((n) => record(n, 0)));
    await smuggle([{ ...record(9, 0), position: 'no position' }]);
    await log.append(range(6, 10).map((n) => record(n, 0)));
    await vi.waitFor(() => expect(seen.at(-1)).toBe(9), patiently);
    expect(seen).toEqual(range(1, 10));
  });

  test('appends that do not wait for one another keep their order', async () => {
    fresh();
    const log = await writer();
    await log.open();
    await Promise.all(range(1, 400).map((n) => log.append([record(n, 0, 2_000)])));
    const seen: number[] = [];
    await (await reader()).readAll(1_000, ({ records }) => void seen.push(...records.map(numberOf)));
    expect(seen).toEqual(range(1, 400));
  });

  test('a record of several megabytes passes; one that is too large fails its append, and the log opens again', async () => {
    fresh();
    const log = await writer();
    await log.open();
    await log.append([record(1, 0), record(2, 0, 6.5 * 2 ** 20), record(3, 0)]);
    const seen: LogRecord[] = [];
    await (await reader()).readAll(10, ({ records }) => void seen.push(...records));
    expect(seen.map(numberOf)).toEqual([1, 2, 3]);
    expect(seen[1]?.body.length).toBeGreaterThan(6.5 * 2 ** 20);
    const failing = log.append([record(4, 0, 9 << 20)]);
    const behind = log.append([record(5, 0)]);
    await expect(failing).rejects.toThrow(/Kafka did not take the changes/);
    await expect(behind).rejects.toThrow(/Kafka did not take the changes/);
    await expect(log.append([record(5, 0)])).rejects.toThrow();
    expect((await log.open())[0]).toBe(record(3).position);
    await log.append([record(4, 0)]);
    await vi.waitFor(() => expect(seen.map(numberOf)).toEqual([1, 2, 3, 4]), patiently);
  });

  test('a topic with another number of partitions is refused', async () => {
    fresh();
    await writer();
    await expect(createKafkaReader({ ...options, partitions: 4 })).rejects.toThrow(/has 3 partitions/);
    await expect(createKafkaWriter({ ...options, topic: `${options.topic}-x`, replicas: 3 })).rejects.toThrow(
      /cannot be created: .*replication/i,
    );
  });

  test('processes that start at once create the topic once', async () => {
    fresh();
    const made = await Promise.all([writer(), reader(), reader(), writer(), reader()]);
    expect(made).toHaveLength(5);
  });

  test('a cursor without an offset, or with one that the log does not hold, goes by its position', async () => {
    fresh();
    const log = await writer();
    await log.open();
    await log.append(range(0, 30).map((n) => record(n)));
    const late = new Member('late', partitions);
    late.state.cursors.set(0, { position: record(26).position, offset: '' });
    late.state.cursors.set(1, { position: record(26).position, offset: '999' });
    late.state.cursors.set(2, { position: record(23).position, offset: '8' });
    await (await reader()).join('group', 'late', late);
    await late.until(() => late.count === 4);
    expect([...late.byPartition.values()].flat().map(numberOf).sort()).toEqual([26, 27, 28, 29]);
  });

  test('a broker killed with -9 under appends loses nothing, doubles nothing and keeps the order', async () => {
    fresh();
    const log = await writer();
    await log.open();
    const live: number[] = [];
    const inOrder = ({ records }: LogBatch) => void live.push(...records.map(numberOf));
    await (await reader()).readAll(0, inOrder);
    const member = new Member('member', partitions);
    await (await reader()).join('group', 'member', member);

    let stop = false;
    let next = 0;
    const appending = (async () => {
      while (!stop) {
        const batch = range(next, next + 20).map((n) => record(n));
        await appendInTheEnd(log, batch);
        next += batch.length;
      }
    })();
    appending.catch(() => {});
    try {
      await vi.waitFor(() => expect(next).toBeGreaterThan(200), patiently);
      await kafka.restart();
      const atRestart = next;
      await vi.waitFor(() => expect(next).toBeGreaterThan(atRestart + 200), patiently);
    } finally {
      stop = true;
      await appending;
    }
    await vi.waitFor(() => expect(live.length).toBe(next), patiently);
    await member.until(() => member.count === next);
    for (const partition of range(0, partitions)) {
      const appended = range(0, next).filter((n) => n % partitions === partition);
      expect(live.filter((n) => n % partitions === partition)).toEqual(appended);
      expect((member.byPartition.get(partition) ?? []).map(numberOf)).toEqual(appended);
    }
  });

  test('a member that hears nothing of its group for long has no partitions, until it is back', async () => {
    fresh();
    const member = new Member('member', partitions);
    await (await reader()).join('group', 'member', member);
    await member.until(() => member.owned.size === partitions);
    kafka.signal('SIGSTOP');
    try {
      await member.until(() => member.owned.size === 0);
    } finally {
      kafka.signal('SIGCONT');
    }
    await member.until(() => member.owned.size === partitions);
  });

  test('who was cut off at the start of an empty partition is told of what was trimmed meanwhile', async () => {
    fresh();
    const log = await writer();
    await log.open();
    const sockets: Socket[] = [];
    let cutOff = false;
    const dial = (host: string, port: number) => {
      const socket = cutOff ? new Socket().destroy(new Error('cut off')) : connect({ host, port });
      sockets.push(socket);
      return socket;
    };
    const on = await createKafkaReader({ ...options, dial });
    open.push(on);
    const told: (number | 'gap')[] = [];
    const take = ({ records }: LogBatch) => void told.push(...records.map(numberOf));
    await on.readAll(0, take, () => void told.push('gap'));
    // Found by a fetch that asks for all partitions.
    await log.append([record(1, 1)]);
    await vi.waitFor(() => expect(told).toEqual([1]), patiently);
    cutOff = true;
    for (const socket of sockets) socket.destroy(new Error('cut off'));
    await log.append(range(2, 12).map((n) => record(n, 0)));
    const { topic } = options;
    const partition = { partition: 0, offset: '7' };
    await asAdmin(kafka.brokers, async (one) => {
      // Has it learn of the topic, without which it deletes nothing.
      await one.fetchTopicOffsets(topic);
      await one.deleteTopicRecords({ topic, partitions: [partition] });
    });
    cutOff = false;
    await vi.waitFor(() => expect(told).toEqual([1, 'gap', 9, 10, 11]), patiently);
  });

  test('a topic that was made anew under a member without room is another one', async () => {
    fresh();
    options = { ...options, partitions: 1 };
    const log = await writer();
    await log.open();
    const member = new Member('member', 1);
    member.refuse = 0;
    await (await reader()).join('group', 'member', member);
    // More than is fetched for a member that takes nothing.
    for (const n of range(0, 40)) await log.append([record(n, 0, 100_000)]);
    await member.until(() => member.refused > 0);
    await remake();
    const other = await writer();
    await other.open();
    await other.append(range(100, 200).map((n) => record(n, 0)));
    member.refuse = undefined;
    await member.until(() => member.positions(0).at(-1) === record(199).position);
    expect(member.gaps).toHaveLength(1);
    const read = (member.byPartition.get(0) ?? []).map(numberOf);
    expect(read).toEqual([...range(0, read.length - 100), ...range(100, 200)]);
  });

  test('a page behind a cursor is not taken from a topic that was made anew', async () => {
    fresh();
    const log = await writer();
    await log.open();
    await log.append(range(1, 11).map((n) => record(n, 0)));
    const on = await reader();
    const page = await on.readFrom(0, await on.locate(0, record(5).position));
    expect(page?.records.map(numberOf)).toEqual(range(6, 11));
    await remake();
    const other = await writer();
    await other.open();
    await other.append(range(11, 41).map((n) => record(n, 0)));
    const cursor = page?.cursor ?? { position: '', offset: '' };
    const read = async () => (await on.readFrom(0, cursor))?.records.map(numberOf);
    // Brokers may take a while to know the new topic.
    await vi.waitFor(() => expect(read()).rejects.toMatchObject({ code: 'PositionGone' }), patiently);
  });

  test('what is closed while no broker answers ends, and what it was doing fails', async () => {
    fresh();
    const log = await writer();
    await log.open();
    const on = await reader();
    const member = new Member('member', partitions);
    await on.readAll(0, () => {});
    await on.join('group', 'member', member);
    await member.until(() => member.owned.size === partitions);
    const other = await reader();
    await kafka.restart(async () => {
      const appending = log.append([record(1)]);
      const reading = other.readAll(0, () => {});
      const joining = other.join('group', 'other', new Member('other', partitions));
      await Promise.all([
        expect(appending).rejects.toThrow(/closed/),
        expect(reading).rejects.toThrow(),
        expect(joining).rejects.toThrow(/closed/),
        log.close(),
        on.close(),
        other.close(),
      ]);
      expect(member.owned.size).toBe(0);
    });
  });
});
