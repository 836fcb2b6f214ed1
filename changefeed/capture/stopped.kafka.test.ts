import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { kafkaAvailable, startKafka, type TestKafka } from '../../test/fixtures/kafka.ts';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { partitionOf } from '../change.ts';
import { createKafkaReader } from '../log/kafka/index.ts';
import { Seen } from '../testing/records.ts';
import { stopAndWake } from './stopped.testing.ts';
import { Witness } from './wal.testing.ts';

const partitions = 4;

describe.skipIf(!(await kafkaAvailable()))('on Kafka', () => {
  let kafka: TestKafka;
  let server: TestPostgres;

  beforeAll(async () => {
    [kafka, server] = await Promise.all([startKafka(), startPostgres()]);
  }, 300_000);

  afterAll(() => Promise.all([kafka?.stop(), server?.stop()]));

  test('a capture that is stopped is taken over, and readers see nothing of its awakening', {
    timeout: 300_000,
  }, async () => {
    const topic = 'changes';
    const env = {
      CONGER_KAFKA: kafka.brokers.join(','),
      CONGER_KAFKA_TOPIC: topic,
      CONGER_PARTITIONS: String(partitions),
    };
    const truth = new Witness(server.url);
    await truth.prepare();
    const seen = new Seen();
    const reader = await createKafkaReader({
      ...{ brokers: kafka.brokers, topic, partitions, replicas: 1 },
      log: silentLogger(),
    });
    try {
      await stopAndWake(server.url, env, { rounds: 4, seed: 11 }, async (count) => {
        await reader.readAll(1e6, seen.take);
        await seen.until(() => seen.count >= count);
      });
    } finally {
      await reader.close();
    }
    const lines = await truth.lines('conger');
    for (let partition = 0; partition < partitions; partition++) {
      const got = seen.byPartition.get(partition) ?? [];
      expect(
        got.map((one) => `${one.xid} ${one.index} ${one.partitionKey} ${one.body}`),
        `partition ${partition}`,
      ).toEqual(lines.filter((line) => partitionOf(line.split(' ')[2] ?? '', partitions) === partition));
    }
  });
});
