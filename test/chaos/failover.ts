import { setTimeout as sleep } from 'node:timers/promises';
import { createKv } from '../../kvstore/client.ts';
import { silentLogger } from '../../runtime/log.ts';
import type { ReplicatedPostgres } from '../fixtures/replicated-postgres.ts';
import { until } from '../until.ts';
import type { Cluster } from './cluster.ts';
import type { Fault } from './faults.ts';
import { ledgerBucket } from './resources.ts';

/** The primary goes, its standby becomes the primary, and the old one's host gets a new standby. */
export const failover: Readonly<Record<string, Fault>> = {
  kill: async (cluster, random) => {
    const postgres = await ready(cluster);
    await postgres.killPrimary();
    await sleep(random.below(1_500));
    await postgres.promoteStandby();
    await sleep(random.below(1_000));
    await postgres.addStandby();
  },
  /**
   * It dies when the standby has taken nothing from it for a while, and what was on the way is lost: nothing of that may
   * have been acknowledged.
   */
  behind: async (cluster, random) => {
    const postgres = await ready(cluster);
    const standby = postgres.standby();
    await standby?.kill('SIGSTOP');
    await sleep(200 + random.below(800));
    await postgres.killPrimary();
    await standby?.kill('SIGKILL');
    await standby?.start();
    await postgres.promoteStandby();
    await sleep(random.below(1_000));
    await postgres.addStandby();
  },
  /** It wakes up when another is the primary, and believes that it still is. */
  pause: async (cluster, random) => {
    const postgres = await ready(cluster);
    const old = postgres.primary();
    await old.kill('SIGSTOP');
    await sleep(random.below(1_500));
    await postgres.promoteStandby();
    await goneOver(cluster);
    await old.kill('SIGCONT');
    await sleep(random.below(1_000));
    await postgres.addStandby();
  },
  /** It is cut off from all processes, and can be reached again when another is the primary. */
  isolate: async (cluster, random) => {
    const postgres = await ready(cluster);
    const host = postgres.url.split(',').indexOf(postgres.primary().url);
    const cut = cluster.links.filter(({ name }) => name.endsWith(`-postgres${host}`));
    for (const { proxy } of cut) proxy.lose('requests', 'answers');
    await sleep(random.below(1_500));
    await postgres.promoteStandby();
    await goneOver(cluster);
    for (const { proxy } of cut) proxy.heal();
    await sleep(random.below(1_000));
    await postgres.addStandby();
  },
};

/** A pair whose standby may be promoted without a loss: where slots come along, it has that of the capture. */
async function ready({ fixtures, config }: Cluster): Promise<ReplicatedPostgres> {
  const { replicas } = fixtures;
  if (replicas === undefined) throw new Error('PostgreSQL has no standby');
  if (replicas.failoverSlots) await replicas.untilSynchronised(config.captureSlot);
  return replicas;
}

/**
 * Waits until nobody takes the old primary for the primary any more. Whoever promotes has to keep the old one from
 * answering for so long (Patroni does it with a lease and a watchdog): it would answer from the past, and neither it nor
 * its readers could know.
 */
async function goneOver({ kvstores, fixtures, config }: Cluster): Promise<void> {
  await Promise.all(
    kvstores.map(async (server) => {
      const kv = createKv({ servers: [server], log: silentLogger() });
      try {
        await until(`${server} has gone over to the new primary`, async () => {
          await kv.put(ledgerBucket, `probe ${server}`, {});
          return true;
        });
      } finally {
        await kv.close();
      }
    }),
  );
  await until('the capture has gone over to the new primary', async () => {
    const slots = await fixtures.postgres.query(
      `SELECT FROM pg_replication_slots WHERE slot_name = '${config.captureSlot}' AND active`,
    );
    return slots.length === 1;
  });
}
