import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { silentLogger } from '../../../runtime/log.ts';
import { kafkaAvailable } from '../../../test/fixtures/kafka.ts';
import { type Broker, installKafka, startBroker } from './broker.ts';
import { createKafkaWriter } from './index.ts';

test('what is missing is named', async () => {
  const empty = await mkdtemp(join(tmpdir(), 'conger-no-java-'));
  vi.stubEnv('PATH', empty);
  try {
    await expect(installKafka()).rejects.toThrow(/Java 17 or newer.*apt install/);
  } finally {
    vi.unstubAllEnvs();
    await rm(empty, { recursive: true });
  }
});

describe.skipIf(!(await kafkaAvailable()))('a broker of our own', () => {
  let dir: string;
  const started: Broker[] = [];

  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'conger-kafka-'));
  });
  afterEach(async () => {
    await Promise.all(started.splice(0).map((broker) => broker.kill('SIGKILL')));
    await rm(dir, { recursive: true, force: true });
  });

  async function start(port: number, said: string[] = []): Promise<Broker> {
    const broker = await startBroker({ dir, port, say: (line) => said.push(line) });
    started.push(broker);
    return broker;
  }

  test('one that was left running is stopped, and its successor has its data', async () => {
    const orphan = await start(0);
    const log = await createKafkaWriter({
      brokers: orphan.brokers,
      topic: 'kept',
      partitions: 2,
      replicas: 1,
      log: silentLogger(),
    });
    await log.close();
    const said: string[] = [];
    const heir = await start(0, said);
    expect(said).toEqual([`stopping the Kafka broker that was left running (pid ${orphan.pid})`]);
    await orphan.ended;
    const options = { brokers: heir.brokers, topic: 'kept', replicas: 1, log: silentLogger() };
    await expect(createKafkaWriter({ ...options, partitions: 3 })).rejects.toThrow(/has 2 partitions/);
    await heir.stop();
  }, 300_000);

  test('one that cannot start says why', async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    await once(taken, 'listening');
    const address = taken.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    try {
      await expect(start(port)).rejects.toThrow(/did not start[\s\S]*[Aa]ddress already in use/);
    } finally {
      taken.close();
    }
  }, 300_000);
});
