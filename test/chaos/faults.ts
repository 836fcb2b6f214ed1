import { setTimeout as sleep } from 'node:timers/promises';
import { parseChange } from '../../changefeed/change.ts';
import { openLogReader, openLogWriter } from '../../changefeed/log/index.ts';
import type { LogRecord } from '../../changefeed/types.ts';
import { silentLogger } from '../../runtime/log.ts';
import type { Random } from '../random.ts';
import type { Cluster } from './cluster.ts';

/** Breaks something, in a way that follows from `random`, and resolves when it is whole again. */
export type Fault = (cluster: Cluster, random: Random) => Promise<void>;

const pause = (random: Random, most: number) => sleep(random.below(most));

const processes: Readonly<Record<string, Fault>> = {
  kill: async (cluster, random) => {
    random.pick(cluster.processes).kill();
  },
  'kill-captures': async (cluster, random) => {
    for (const process of cluster.processes.filter(({ kind }) => kind === 'capture')) {
      process.kill();
      await pause(random, 300);
    }
  },
  'kill-services': async (cluster, random) => {
    for (const process of cluster.processes.filter(({ kind }) => kind === 'service')) {
      process.kill();
      await pause(random, 500);
    }
  },
  pause: async (cluster, random) => {
    const process = random.pick(cluster.processes);
    process.pause();
    await pause(random, 3_000);
    process.resume();
  },
  /** Long enough for others to take over what it has. */
  'pause-long': async (cluster, random) => {
    const process = random.pick(cluster.processes.filter(({ kind }) => kind !== 'kvstore'));
    process.pause();
    await sleep(7_000 + random.below(1_000));
    process.resume();
  },
};

const network: Readonly<Record<string, Fault>> = {
  cut: async (cluster, random) => {
    const { proxy } = random.pick(cluster.links);
    for (let i = 0; i < 4; i++) {
      proxy.cut();
      await pause(random, 150);
    }
  },
  'cut-all': async (cluster) => {
    for (const { proxy } of cluster.links) proxy.cut();
  },
  refuse: async (cluster, random) => {
    const { proxy } = random.pick(cluster.links);
    proxy.refuse();
    await pause(random, 1_500);
    proxy.heal();
  },
  /** A service is away from the log for long enough to lose what it owns, and can still write. */
  'lose-log': async (cluster, random) => {
    const { proxy } = random.pick(cluster.links.filter(({ name }) => /^service\d-postgres$/.test(name)));
    proxy.refuse();
    await sleep(1_500 + random.below(1_500));
    proxy.heal();
  },
  hold: async (cluster, random) => {
    const { proxy } = random.pick(cluster.links);
    proxy.hold();
    await pause(random, 2_000);
    proxy.heal();
  },
  'lose-answers': async (cluster, random) => {
    const { proxy } = random.pick(cluster.links);
    proxy.lose('answers');
    await pause(random, 800);
    proxy.heal();
  },
  'lose-requests': async (cluster, random) => {
    const { proxy } = random.pick(cluster.links);
    proxy.lose('requests');
    await pause(random, 800);
    proxy.heal();
  },
};

const postgres: Readonly<Record<string, Fault>> = {
  terminate: async ({ fixtures }, random) => {
    for (let i = 0; i < 3; i++) {
      await fixtures.postgres.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'conger'",
      );
      await pause(random, 300);
    }
  },
  'end-walsender': async ({ fixtures }) => {
    await fixtures.postgres.query('SELECT pg_terminate_backend(pid) FROM pg_stat_replication');
  },
  pause: async ({ fixtures }, random) => {
    await fixtures.postgres.kill('SIGSTOP');
    await pause(random, 2_000);
    await fixtures.postgres.kill('SIGCONT');
  },
  crash: async ({ fixtures }, random) => {
    await fixtures.postgres.kill('SIGKILL');
    await pause(random, 500);
    await fixtures.postgres.start();
  },
};

const kafka: Readonly<Record<string, Fault>> = {
  /** Where there are several, the partitions that it leads get another leader. */
  restart: async ({ fixtures }, random) => {
    await fixtures.kafka?.restart(random.below(3), () => pause(random, 3_000));
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

/** The replication slot goes, and with it the changes that nobody has read. */
const slot: Readonly<Record<string, Fault>> = {
  drop: async ({ fixtures, config }) => {
    for (let tries = 0; ; tries++) {
      try {
        await fixtures.postgres.query(
          `SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots
            WHERE slot_name = '${config.captureSlot}' AND active_pid IS NOT NULL`,
        );
        await fixtures.postgres.query(`SELECT pg_drop_replication_slot('${config.captureSlot}')`);
        return;
      } catch (error) {
        // The capture was faster, and reads again.
        if (tries === 50) throw error;
      }
    }
  },
};

const groups = { process: processes, network, postgres, kafka, slot } as const;

export interface NamedFault {
  /** `network:cut` */
  readonly name: string;
  readonly run: Fault;
}

export const everyFault: readonly NamedFault[] = Object.entries(groups).flatMap(([group, faults]) =>
  Object.entries(faults).map(([name, run]) => ({ name: `${group}:${name}`, run })),
);

/** The faults whose names a pattern matches, that are possible on this log. */
export function faultsOf(pattern: RegExp, log: 'embedded' | 'kafka'): readonly NamedFault[] {
  return everyFault.filter(
    ({ name }) => pattern.test(name) && (log === 'kafka' || !name.startsWith('kafka:')),
  );
}
