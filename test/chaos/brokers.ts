import { setTimeout as sleep } from 'node:timers/promises';
import { Kafka, logLevel } from 'kafkajs';
import { startKafka, startKafkaCluster, type Ways } from '../fixtures/kafka.ts';

/** Kafka's brokers, and what can happen to them; they are numbered from 0. */
export interface Brokers {
  readonly addresses: readonly string[];
  /** How many brokers have each record. */
  readonly replicas: number;
  readonly ways: Ways;
  /** Kills the n-th broker with -9, and starts it again on the same data; `pause` runs while it is down. */
  restart(n: number, pause: () => Promise<void>): Promise<void>;
  /** Stops the n-th broker with SIGSTOP for as long as `pause` runs. */
  stopFor(n: number, pause: () => Promise<void>): Promise<void>;
  /** Which broker leads each partition; undefined where none does. */
  leaders(topic: string): Promise<readonly (number | undefined)[]>;
  /** Starts what is gone, and makes every way whole. */
  heal(): Promise<void>;
  stop(): Promise<void>;
}

export async function startBrokers(count: 1 | 3, ways: number): Promise<Brokers> {
  return count === 1 ? await startOne(ways) : await startThree(ways);
}

async function startOne(ways: number): Promise<Brokers> {
  const broker = await startKafka({ ways });
  return {
    addresses: broker.brokers,
    replicas: 1,
    ways: broker.ways,
    restart: (_, pause) => broker.restart(pause),
    stopFor: async (_, pause) => {
      broker.signal('SIGSTOP');
      await pause();
      broker.signal('SIGCONT');
    },
    leaders: (topic) => leadersOf(broker.brokers, topic),
    heal: async () => healWays(broker.ways),
    stop: () => broker.stop(),
  };
}

async function startThree(ways: number): Promise<Brokers> {
  const cluster = await startKafkaCluster({ ways });
  return {
    addresses: cluster.brokers,
    replicas: 3,
    ways: cluster.ways,
    restart: async (n, pause) => {
      const id = (n % 3) + 1;
      await cluster.kill(id);
      await pause();
      await cluster.start(id);
    },
    stopFor: async (n, pause) => {
      const id = (n % 3) + 1;
      cluster.signal(id, 'SIGSTOP');
      await pause();
      cluster.signal(id, 'SIGCONT');
    },
    leaders: (topic) => leadersOf(cluster.brokers, topic),
    heal: async () => {
      for (const id of [1, 2, 3]) await cluster.start(id);
      healWays(cluster.ways);
    },
    stop: () => cluster.stop(),
  };
}

function healWays(ways: Ways): void {
  for (const proxy of ways.flat()) proxy.heal();
}

async function leadersOf(brokers: string[], topic: string): Promise<readonly (number | undefined)[]> {
  const admin = new Kafka({ brokers, logLevel: logLevel.NOTHING }).admin();
  try {
    await admin.connect();
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
    const leaders: (number | undefined)[] = [];
    for (const { partitionId, leader } of topics[0]?.partitions ?? []) {
      leaders[partitionId] = leader < 0 ? undefined : leader - 1;
    }
    return leaders;
  } finally {
    await admin.disconnect().catch(() => {});
  }
}

/** Waits until the leaders are as `done` wants them; a metadata request that fails counts as not yet. */
export async function untilLeaders(
  brokers: Brokers,
  topic: string,
  done: (leaders: readonly (number | undefined)[]) => boolean,
): Promise<void> {
  const end = performance.now() + 60_000;
  let last: unknown;
  while (performance.now() < end) {
    const leaders = await brokers.leaders(topic).catch((error: unknown) => {
      last = error;
    });
    if (leaders !== undefined && done(leaders)) return;
    await sleep(200);
  }
  throw new Error(`the leaders of ${topic} do not come to be as they should`, { cause: last });
}
