import { setTimeout as sleep } from 'node:timers/promises';
import { parseChange } from '../../changefeed/change.ts';
import { openLogReader, openLogWriter } from '../../changefeed/log/index.ts';
import type { LogRecord } from '../../changefeed/types.ts';
import { silentLogger } from '../../runtime/log.ts';
import { type Brokers, untilLeaders } from './brokers.ts';
import type { Cluster } from './cluster.ts';
import type { Fault } from './faults.ts';

function brokersOf({ fixtures }: Cluster): Brokers {
  if (fixtures.kafka === undefined) throw new Error('this log has no brokers');
  return fixtures.kafka;
}

/** What happens to brokers, and to the log in them. */
export const kafka: Readonly<Record<string, Fault>> = {
  /** Where there are several, the partitions that it leads get another leader. */
  restart: async (cluster, random) => {
    await brokersOf(cluster).restart(random.below(3), () => sleep(random.below(3_000)));
  },
  /** Its connections stay, and nobody answers. */
  pause: async (cluster, random) => {
    await brokersOf(cluster).stopFor(random.below(3), () => sleep(1_000 + random.below(7_000)));
  },
  /** Connections to brokers break one by one, or all of a process at once. */
  'cut-some': async ({ links }, random) => {
    const ways = links.filter(({ name }) => /-kafka\d$/.test(name));
    for (let i = 0; i < 10; i++) {
      const { proxy } = random.pick(ways);
      const n = random.below(100);
      if (n < 30) proxy.cut();
      else proxy.cutOne(n);
      await sleep(random.below(200));
    }
  },
  /** As a writer does that was paused, and wakes when another one has taken over. */
  duplicate: async ({ config }, random) => {
    const log = silentLogger();
    const reader = await openLogReader(config, log);
    const last: LogRecord[] = [];
    try {
      const most = 1 + random.below(40);
      await (await reader.readAll(most, ({ records }) => void last.push(...records))).stop();
    } finally {
      await reader.close();
    }
    for (const record of last) parseChange(record);
    const writer = await openLogWriter(config, log);
    try {
      await writer.open();
      await writer.append(last);
    } finally {
      await writer.close();
    }
  },
};

/** Needs several brokers. */
export const leader: Readonly<Record<string, Fault>> = {
  /**
   * The leader of a partition dies, another one takes over, and the first leads again when it is back. Not the broker that
   * has the controller, without which there is no election: `kafka:restart` takes that, too.
   */
  change: async (cluster, random) => {
    const brokers = brokersOf(cluster);
    const topic = cluster.config.kafkaTopic;
    const before = await brokers.leaders(topic);
    const led = before.flatMap((one, partition) => (one === undefined || one === 0 ? [] : [partition]));
    const partition = random.pick(led);
    const victim = before[partition]!;
    await brokers.restart(victim, async () => {
      await untilLeaders(brokers, topic, (now) => now.every((one) => one !== undefined && one !== victim));
      await sleep(random.below(2_000));
    });
    await untilLeaders(brokers, topic, (now) => now[partition] === victim);
  },
};
