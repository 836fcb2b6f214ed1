import { cp } from 'node:fs/promises';
import { freeRange } from '../../cli/parts/ports.ts';
import { startKafka, startKafkaCluster } from '../fixtures/kafka.ts';
import { freshCluster, PostgresNode } from '../fixtures/postgres-node.ts';

interface Kafka {
  readonly brokers: readonly string[];
  /** How many brokers have each record. */
  readonly replicas: number;
  /** Kills the n-th broker with -9, and starts it again on the same data; `pause` runs while it is down. */
  restart(n: number, pause: () => Promise<void>): Promise<void>;
  stop(): Promise<void>;
}

/** What the runs of one log share; each has a database, a slot and a topic of its own. */
export interface Fixtures {
  readonly log: 'embedded' | 'kafka';
  readonly postgres: PostgresNode;
  readonly kafka: Kafka | undefined;
  /** Makes a database; answers its URL. */
  database(name: string): Promise<string>;
  /** Removes the database and the slot. */
  drop(name: string, slot: string): Promise<void>;
  /** Copies PostgreSQL's data, as a crash would leave it. */
  keep(directory: string): Promise<void>;
  stop(): Promise<void>;
}

async function startBrokers(count: 1 | 3): Promise<Kafka> {
  if (count === 1) {
    const one = await startKafka();
    const { brokers, stop } = one;
    return { brokers, replicas: 1, restart: (_, pause) => one.restart(pause), stop };
  }
  const three = await startKafkaCluster();
  return {
    brokers: three.brokers,
    replicas: 3,
    restart: async (n, pause) => {
      const id = (n % 3) + 1;
      await three.kill(id);
      await pause();
      await three.start(id);
    },
    stop: () => three.stop(),
  };
}

/** @param brokers how many Kafka has; where there are three, two must have a record */
export async function startFixtures(log: 'embedded' | 'kafka', brokers: 1 | 3 = 1): Promise<Fixtures> {
  const postgres = new PostgresNode('chaos', await freeRange(1), {
    max_connections: '200',
    max_replication_slots: '200',
  });
  const [started, kafka] = await Promise.allSettled([
    postgres.create(freshCluster),
    log === 'kafka' ? startBrokers(brokers) : undefined,
  ]);
  const stop = async () => {
    if (kafka.status === 'fulfilled') await kafka.value?.stop();
    await postgres.remove();
  };
  if (started.status === 'rejected' || kafka.status === 'rejected') {
    await stop();
    throw started.status === 'rejected' ? started.reason : (kafka as PromiseRejectedResult).reason;
  }
  return {
    log,
    postgres,
    kafka: kafka.value,
    database: async (name) => {
      await postgres.query(`CREATE DATABASE ${name} OWNER conger`);
      const url = new URL(postgres.url);
      url.pathname = name;
      return url.href;
    },
    drop: async (name, slot) => {
      await postgres.query(
        `SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots
          WHERE slot_name = '${slot}' AND active_pid IS NOT NULL`,
      );
      await postgres.query(
        `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '${slot}'`,
      );
      await postgres.query(`DROP DATABASE ${name} WITH (FORCE)`);
    },
    keep: async (directory) => {
      const { data } = postgres;
      await postgres.kill('SIGKILL');
      await cp(data, directory, { recursive: true });
      await postgres.start();
    },
    stop,
  };
}
