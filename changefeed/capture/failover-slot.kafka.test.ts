import { afterAll, beforeAll, describe, test } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { kafkaAvailable, startKafka, type TestKafka } from '../../test/fixtures/kafka.ts';
import { createKafkaReader, createKafkaWriter } from '../log/kafka/index.ts';
import { partitions, surviveFailovers } from './failover-slot.testing.ts';

describe.skipIf(!(await kafkaAvailable()))('on Kafka', () => {
  let kafka: TestKafka;

  beforeAll(async () => {
    kafka = await startKafka();
  }, 300_000);

  afterAll(() => kafka?.stop());

  test('the feed goes on from the same position, and Kafka is never ahead of the promoted standby', {
    timeout: 400_000,
  }, async () => {
    const { brokers } = kafka;
    const options = { brokers, topic: 'changes', partitions, replicas: 1, log: silentLogger() };
    await surviveFailovers({
      writer: () => createKafkaWriter(options),
      reader: () => createKafkaReader(options),
    });
  });
});
