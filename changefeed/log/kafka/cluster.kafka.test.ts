import { randomUUID } from 'node:crypto';
import { Kafka, logLevel, Partitioners } from 'kafkajs';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { silentLogger } from '../../../runtime/log.ts';
import {
  asAdmin,
  kafkaAvailable,
  startKafkaCluster,
  type TestKafkaCluster,
} from '../../../test/fixtures/kafka.ts';
import { appendInTheEnd } from '../../testing/append.ts';
import { Member } from '../../testing/member.ts';
import { records, Seen } from '../../testing/records.ts';
import type { LogRecord } from '../../types.ts';
import { createKafkaReader, createKafkaWriter, type KafkaOptions } from './index.ts';

const partitions = 6;
const patiently = { timeout: 90_000, interval: 200 };

describe.skipIf(!(await kafkaAvailable()))('the Kafka log on three brokers', { timeout: 300_000 }, () => {
  let cluster: TestKafkaCluster;
  let options: KafkaOptions;
  const open: { close(): Promise<void> }[] = [];

  beforeAll(async () => {
    cluster = await startKafkaCluster();
  }, 300_000);
  afterAll(() => cluster?.stop());
  afterEach(async () => {
    await Promise.all(open.splice(0).map((part) => part.close()));
  });

  async function setup() {
    const topic = `changes-${randomUUID()}`;
    const log = silentLogger();
    options = {
      brokers: cluster.brokers,
      topic,
      partitions,
      replicas: 3,
      retainMs: 3_600_000,
      retainBytes: 6e9,
      log,
    };
    const writer = await createKafkaWriter(options);
    const reader = await createKafkaReader(options);
    open.push(writer, reader);
    await writer.open();
    return { writer, reader };
  }

  /** As one of the brokers knows them, which may take a while to know a new topic. */
  function partitionsNow() {
    return vi.waitFor(async () => {
      const ask = { topics: [options.topic] };
      const { topics } = await asAdmin(cluster.brokers, (one) => one.fetchTopicMetadata(ask));
      const found = topics[0]?.partitions ?? [];
      expect(found).toHaveLength(partitions);
      return found;
    }, patiently);
  }

  function expectAll(seen: Seen, all: readonly LogRecord[]): void {
    for (let p = 0; p < partitions; p++) {
      const there = all.filter(({ partition }) => partition === p).map(({ position }) => position);
      expect(seen.positions(p)).toEqual(there);
    }
  }

  test('a topic has its replicas, and two of three must have a record', async () => {
    await setup();
    for (const { replicas } of await partitionsNow()) expect(replicas).toHaveLength(3);
    const ask = { includeSynonyms: false, resources: [{ type: 2, name: options.topic }] };
    const { resources } = await vi.waitFor(
      () => asAdmin(cluster.brokers, (one) => one.describeConfigs(ask)),
      patiently,
    );
    const settings = Object.fromEntries(
      resources[0]?.configEntries.map(({ configName, configValue }) => [configName, configValue]) ?? [],
    );
    expect(settings).toMatchObject({
      'min.insync.replicas': '2',
      'retention.ms': '3600000',
      'retention.bytes': '1000000000',
      'unclean.leader.election.enable': 'false',
    });
  });

  test('a leader that dies with -9 takes nothing with it, and nothing changes places', async () => {
    const { writer, reader } = await setup();
    const seen = new Seen();
    const member = new Member('a', partitions);
    await reader.readAll(0, seen.take);
    await reader.join('group', 'a', member);
    await member.until(() => member.owned.size === partitions);
    const all = records(1, 6_000, partitions);
    const append = async (from: number, to: number) => {
      for (let n = from; n < to; n += 50) await appendInTheEnd(writer, all.slice(n, n + 50));
    };
    await append(0, 1_000);
    const victim = (await partitionsNow()).find(({ leader }) => leader !== 1)?.leader ?? 0;
    const appending = append(1_000, 5_000);
    await cluster.kill(victim);
    await appending;
    await vi.waitFor(
      async () => expect((await partitionsNow()).map(({ leader }) => leader)).not.toContain(victim),
      patiently,
    );
    await cluster.start(victim);
    await append(5_000, 6_000);
    await seen.until(() => seen.count >= all.length);
    await member.until(() => member.state.history.length >= all.length);
    expectAll(seen, all);
    for (let p = 0; p < partitions; p++) {
      const there = all.filter(({ partition }) => partition === p).map(({ position }) => position);
      const history = member.state.history.filter(({ partition }) => partition === p);
      expect(history.map(({ position }) => position)).toEqual(there);
    }
    expect(member.gaps).toEqual([]);
  });

  test('with one of three left, an append waits until there are two', async () => {
    const { writer, reader } = await setup();
    await createProbed();
    const seen = new Seen();
    await reader.readAll(0, seen.take);
    const all = records(1, 60, partitions);
    await writer.append(all.slice(0, 30));
    await seen.until(() => seen.count === 30);
    const untilInSync = (brokers: readonly number[]) =>
      vi.waitFor(async () => {
        for (const { isr } of await partitionsNow()) expect(isr.toSorted()).toEqual(brokers);
      }, patiently);
    // Who is not in sync when the others die leads nothing.
    await untilInSync([1, 2, 3]);
    await cluster.kill(2);
    await cluster.kill(3);
    await untilInSync([1]);
    // Until a leader knows that it is alone it takes what it is sent, and waits for the others.
    const refused = () =>
      vi.waitFor(() => expect(probe()).rejects.toMatchObject({ type: 'NOT_ENOUGH_REPLICAS' }), patiently);
    await refused();
    let appended = false;
    // A writer's patience may end before a second broker is there.
    const appending = appendInTheEnd(writer, all.slice(30)).then(() => {
      appended = true;
    });
    appending.catch(() => {});
    await refused();
    expect(appended).toBe(false);
    expect(seen.count).toBe(30);
    await cluster.start(2);
    await appending;
    await seen.until(() => seen.count === all.length);
    expectAll(seen, all);
    await cluster.start(3);
  });

  /**
   * What the first broker answers to an append that is tried once, to a topic like the log's: what it has taken in spite of
   * all would be read.
   */
  async function probe(): Promise<void> {
    const client = new Kafka({
      brokers: cluster.brokers.slice(0, 1),
      logLevel: logLevel.NOTHING,
      connectionTimeout: 10_000,
      requestTimeout: 10_000,
    });
    const producer = client.producer({
      createPartitioner: Partitioners.DefaultPartitioner,
      retry: { retries: 0 },
    });
    await producer.connect();
    try {
      await producer.send({
        topic: probed(options.topic),
        acks: -1,
        timeout: 1_000,
        messages: [{ value: 'x', partition: 0 }],
      });
    } catch (error) {
      throw error instanceof Error && error.cause instanceof Error ? error.cause : error;
    } finally {
      await producer.disconnect();
    }
  }

  async function createProbed(): Promise<void> {
    await asAdmin(cluster.brokers, (one) =>
      one.createTopics({
        timeout: 25_000,
        // kafkajs gives up where a broker does not know the new topic at once; whoever probes it waits.
        waitForLeaders: false,
        topics: [
          {
            topic: probed(options.topic),
            replicaAssignment: [{ partition: 0, replicas: [1, 2, 3] }],
            configEntries: [{ name: 'min.insync.replicas', value: '2' }],
          },
        ],
      }),
    );
  }
});

const probed = (topic: string) => `${topic}-probed`;
