import { setTimeout as sleep } from 'node:timers/promises';
import type { Random } from '../random.ts';
import { until } from '../until.ts';
import { bucket, type Client } from './client.ts';
import type { Cluster } from './cluster.ts';
import { failover, unfenced } from './failover.ts';
import { stopProcess, wakeProcess } from './stopped.ts';

/** What a fault may meddle with. */
export interface Scene {
  readonly cluster: Cluster;
  readonly clients: readonly Client[];
}

/** Breaks something, in a way that follows from `random`, and resolves when it is whole again. */
export type Fault = (scene: Scene, random: Random) => Promise<void>;

/** A pause of up to `most` milliseconds. */
function pause(random: Random, most: number): Promise<void> {
  return sleep(random.below(most));
}

const client: Readonly<Record<string, Fault>> = {
  disconnect: async ({ clients }, random) => {
    for (let i = 0; i < 5; i++) {
      random.pick(clients).disconnect();
      await pause(random, 60);
    }
  },
};

const server: Readonly<Record<string, Fault>> = {
  kill: async ({ cluster }, random) => {
    const victim = random.pick(cluster.servers);
    await victim.kill();
    await pause(random, 200);
    await victim.start();
  },
  pause: async ({ cluster }, random) => {
    const { pid } = random.pick(cluster.servers);
    stopProcess(pid);
    await pause(random, 1_600);
    wakeProcess(pid);
  },
};

/** Between one kvstore server and PostgreSQL. */
const network: Readonly<Record<string, Fault>> = {
  cut: async ({ cluster }, random) => {
    const { proxies } = random.pick(cluster.servers);
    for (let i = 0; i < 6; i++) {
      for (const proxy of proxies) proxy.cut();
      await pause(random, 100);
    }
  },
  'lose-answers': ({ cluster }, random) => lose(cluster, random, ['answers']),
  'lose-requests': ({ cluster }, random) => lose(cluster, random, ['requests']),
  'lose-both': ({ cluster }, random) => lose(cluster, random, ['requests', 'answers']),
  hold: async ({ cluster }, random) => {
    const { proxies } = random.pick(cluster.servers);
    for (const proxy of proxies) proxy.hold();
    await pause(random, 1_600);
    for (const proxy of proxies) proxy.heal();
  },
  refuse: async ({ cluster }, random) => {
    const { proxies } = random.pick(cluster.servers);
    for (const proxy of proxies) proxy.refuse();
    await pause(random, 800);
    for (const proxy of proxies) proxy.heal();
  },
};

async function lose(cluster: Cluster, random: Random, directions: ('requests' | 'answers')[]): Promise<void> {
  const { proxies } = random.pick(cluster.servers);
  for (let i = 0; i < 3; i++) {
    for (const proxy of proxies) proxy.lose(...directions);
    await pause(random, 300);
    for (const proxy of proxies) proxy.heal();
    await pause(random, 100);
  }
}

const ofKvstore = "application_name LIKE 'conger-kvstore%'";

const postgres: Readonly<Record<string, Fault>> = {
  terminate: async ({ cluster }, random) => {
    for (let i = 0; i < 3; i++) {
      await cluster.postgres
        .primary()
        .query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE ${ofKvstore}`);
      await pause(random, 200);
    }
  },
  cancel: async ({ cluster }, random) => {
    for (let i = 0; i < 10; i++) {
      await cluster.postgres
        .primary()
        .query(`SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE ${ofKvstore} AND state = 'active'`);
      await pause(random, 40);
    }
  },
  'pause-backend': async ({ cluster }, random) => {
    const rows = await cluster.postgres
      .primary()
      .query(`SELECT pid FROM pg_stat_activity WHERE ${ofKvstore} ORDER BY backend_start, pid`);
    if (rows.length === 0) return;
    const pid = Number(random.pick(rows).pid);
    stopProcess(pid);
    await pause(random, 1_600);
    wakeProcess(pid);
  },
  pause: async ({ cluster }, random) => {
    await cluster.postgres.primary().kill('SIGSTOP');
    await pause(random, 1_600);
    await cluster.postgres.primary().kill('SIGCONT');
  },
  crash: async ({ cluster }, random) => {
    await cluster.postgres.killPrimary();
    await pause(random, 200);
    await cluster.postgres.primary().start();
  },
};

/** The bucket gets one more index, in a new version, while it is written. */
const schema: Readonly<Record<string, Fault>> = {
  'add-index': async ({ cluster }, random) => {
    const chosen = random.pick(cluster.servers);
    const change = async () => {
      const found = (await chosen.call('getBucket', [{}, bucket]))[0] as { index: string; options: string };
      const index = JSON.parse(found.index) as Record<string, { type: string }>;
      const { version } = JSON.parse(found.options) as { version: number };
      const missing = fields.find(([field]) => index[field] === undefined);
      if (missing === undefined) delete index.a;
      else index[missing[0]] = { type: missing[1] };
      await chosen.call('updateBucket', [bucket, { index, options: { version: version + 1 } }, {}]);
      return true;
    };
    const reindex = async () => {
      const [done] = await chosen.call('reindexObjects', [bucket, 50, { no_count: true }]);
      return (done as { processed: number }).processed === 0;
    };
    await until('the bucket is changed', change, 120_000);
    await until('the bucket is indexed', reindex, 120_000);
  },
};

/** Fields that every value has, and the type of each. */
const fields = [
  ['a', 'string'],
  ['b', 'number'],
  ['c', 'string'],
] as const;

const groups = { client, server, network, postgres, schema, failover, unfenced };
const ofStandbys = ['failover', 'unfenced'];

export interface NamedFault {
  readonly group: string;
  /** `<group>:<fault>` */
  readonly name: string;
  readonly run: Fault;
}

const everyFault: readonly NamedFault[] = Object.entries(groups).flatMap(([group, faults]) =>
  Object.entries(faults).map(([name, run]) => ({ group, name: `${group}:${name}`, run })),
);

/** What a run can be made with: a group of faults, `all` that need no standby, or one of them by its name. */
export const kinds: readonly string[] = [
  'none',
  'all',
  ...Object.keys(groups),
  ...everyFault.map(({ name }) => name),
];

/** Whether runs with this kind of faults need a standby. */
export function needsStandby(kind: string): boolean {
  return ofStandbys.some((group) => kind.startsWith(group));
}

/** One fault of the kind, or two at once that do not undo each other. */
export function chooseFaults(kind: string, random: Random): readonly NamedFault[] {
  if (kind === 'none') return [];
  const of = everyFault.filter(({ group, name }) =>
    kind === 'all' ? !ofStandbys.includes(group) : group === kind || name === kind,
  );
  const first = random.pick(of);
  if ((kind !== 'all' && kind !== 'failover') || random.below(3) > 0) return [first];
  const never = [first.group, 'postgres', ...ofStandbys];
  // The end of another fault of the network would let the old primary answer again, too early.
  if (first.group === 'failover') never.push('network');
  return [first, random.pick(everyFault.filter(({ group }) => !never.includes(group)))];
}
