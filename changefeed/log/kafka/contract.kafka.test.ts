import { randomUUID } from 'node:crypto';
import { connect, Socket } from 'node:net';
import { afterAll, beforeAll, describe } from 'vitest';
import { silentLogger } from '../../../runtime/log.ts';
import {
  asAdmin,
  deleteTopic,
  kafkaAvailable,
  startKafka,
  type TestKafka,
} from '../../../test/fixtures/kafka.ts';
import { gapContract } from '../../testing/gap-contract.ts';
import { type LogUnderTest, logContract } from '../../testing/log-contract.ts';
import { createKafkaReader, createKafkaWriter } from './index.ts';
import { ensureTopic } from './topic.ts';

/** A process's way to the network, which can be cut, and taken away for good. */
class Wire {
  readonly #sockets = new Set<Socket>();
  #dead = false;

  readonly dial = (host: string, port: number): Socket => {
    if (this.#dead) return new Socket().destroy(new Error('the process is dead'));
    const socket = connect({ host, port, noDelay: true });
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    return socket;
  };

  cut(): void {
    for (const socket of this.#sockets) socket.destroy(new Error('the wire was cut'));
  }

  die(): void {
    this.#dead = true;
    this.cut();
  }
}

describe.skipIf(!(await kafkaAvailable()))('with a broker', () => {
  let kafka: TestKafka;

  beforeAll(async () => {
    kafka = await startKafka();
  }, 300_000);
  afterAll(() => kafka?.stop());

  async function setup(): Promise<LogUnderTest> {
    const options = {
      brokers: kafka.brokers,
      topic: `changes-${randomUUID()}`,
      partitions: 8,
      replicas: 1,
      log: silentLogger(),
    };
    const wires: Wire[] = [];
    const wired = async () => {
      const wire = new Wire();
      wires.push(wire);
      return { wire, reader: await createKafkaReader({ ...options, dial: wire.dial }) };
    };
    return {
      partitions: options.partitions,
      writer: () => createKafkaWriter(options),
      reader: async () => (await wired()).reader,
      mortal: async () => {
        const { reader, wire } = await wired();
        return { reader, crash: async () => wire.die() };
      },
      drop: (kept) =>
        asAdmin(kafka.brokers, async (admin) => {
          const ends = await admin.fetchTopicOffsets(options.topic);
          await admin.deleteTopicRecords({
            topic: options.topic,
            partitions: ends.map(({ partition, high }) => ({
              partition,
              offset: String(Math.max(0, Number(high) - kept)),
            })),
          });
        }),
      wipe: async () => {
        await deleteTopic(kafka.brokers, options.topic);
        await ensureTopic(options);
      },
      cut: async () => {
        for (const wire of wires) wire.cut();
      },
      close: async () => {},
    };
  }

  logContract('Kafka', setup, 180_000);
  gapContract('Kafka', setup, 180_000);
});
