import { setTimeout as sleep } from 'node:timers/promises';
import type { Direction } from '../fixtures/proxy.ts';
import type { Random } from '../random.ts';
import type { Cluster } from './cluster.ts';
import { disk } from './disk-faults.ts';
import { failover } from './failover.ts';
import { kafka, leader } from './kafka-faults.ts';
import { schema, slot, transaction } from './postgres-faults.ts';

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

/** What can happen to one of the links whose names match. */
function onOneOf(names: RegExp): Readonly<Record<string, Fault>> {
  const one = ({ links }: Cluster, random: Random) =>
    random.pick(links.filter(({ name }) => names.test(name))).proxy;
  const lose =
    (direction: Direction): Fault =>
    async (cluster, random) => {
      const proxy = one(cluster, random);
      proxy.lose(direction);
      await pause(random, 800);
      proxy.heal();
    };
  return {
    cut: async (cluster, random) => {
      const proxy = one(cluster, random);
      for (let i = 0; i < 4; i++) {
        proxy.cut();
        await pause(random, 150);
      }
    },
    refuse: async (cluster, random) => {
      const proxy = one(cluster, random);
      proxy.refuse();
      await pause(random, 1_500);
      proxy.heal();
    },
    hold: async (cluster, random) => {
      const proxy = one(cluster, random);
      proxy.hold();
      await pause(random, 2_000);
      proxy.heal();
    },
    'lose-answers': lose('answers'),
    'lose-requests': lose('requests'),
  };
}

const network: Readonly<Record<string, Fault>> = {
  ...onOneOf(/./),
  'cut-all': async (cluster) => {
    for (const { proxy } of cluster.links) proxy.cut();
  },
  /** A service is away from the log for long enough to lose what it owns, and can still write. */
  'lose-log': async ({ fixtures, links }, random) => {
    const of = fixtures.log === 'kafka' ? 'kafka' : 'postgres';
    const service = random.pick([0, 1]);
    const lost = links.filter(({ name }) => name.startsWith(`service${service}-${of}`));
    for (const { proxy } of lost) proxy.refuse();
    await sleep(1_500 + random.below(1_500));
    for (const { proxy } of lost) proxy.heal();
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

const clock: Readonly<Record<string, Fault>> = {
  /** By up to half an hour, and for half of them back, too. The others have their wrong time to the end. */
  jump: async (cluster, random) => {
    const process = random.pick(cluster.processes);
    process.setClock((random.below(2) === 0 ? 1 : -1) * (60_000 + random.below(29 * 60_000)));
    await pause(random, 3_000);
    if (random.below(2) === 0) process.setClock(0);
    await pause(random, 1_000);
  },
};

const groups = {
  process: processes,
  clock,
  network,
  postgres,
  kafka: { ...onOneOf(/-kafka\d$/), ...kafka },
  leader,
  slot,
  transaction,
  schema,
  failover,
  disk,
} as const;

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
