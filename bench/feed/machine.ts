import pg from 'pg';
import { kafkaAvailable, startKafka, type TestKafka } from '../../test/fixtures/kafka.ts';
import { startPostgres } from '../../test/fixtures/postgres.ts';
import { parentOf } from '../kv/cpu.ts';

export type LogName = 'embedded' | 'Kafka';

/** A PostgreSQL with nothing in it, and the log beside it. */
export interface Machine {
  readonly log: LogName;
  readonly url: string;
  readonly client: pg.Client;
  /** What Conger's processes are given. */
  readonly env: NodeJS.ProcessEnv;
  readonly postmaster: number;
  /** Pid of the broker, where there is one. */
  readonly broker: number | undefined;
  stop(): Promise<void>;
}

let broker: Promise<TestKafka> | undefined;
let topics = 0;

/** Whether a log can be measured here. */
export async function available(log: LogName): Promise<boolean> {
  return log === 'embedded' || (await kafkaAvailable());
}

/** The broker stays for the next one, who gets a topic of its own. */
export async function startMachine(log: LogName): Promise<Machine> {
  if (log === 'Kafka') broker ??= startKafka();
  const kafka = log === 'Kafka' ? await broker : undefined;
  const postgres = await startPostgres();
  const client = new pg.Client(postgres.url);
  await client.connect();
  const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  return {
    log,
    url: postgres.url,
    client,
    env: {
      ...process.env,
      CONGER_POSTGRES: postgres.url,
      CONGER_KAFKA: (kafka?.brokers ?? []).join(','),
      CONGER_KAFKA_TOPIC: `bench-${topics++}`,
      CONGER_LOG_LEVEL: 'warn',
    },
    postmaster: parentOf(rows[0]?.pid ?? Number.NaN),
    broker: kafka?.pid,
    stop: async () => {
      await client.end();
      await postgres.stop();
    },
  };
}

export async function stopBroker(): Promise<void> {
  await (await broker)?.stop();
}
