import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '../until.ts';
import { probeBucket } from './client.ts';
import type { Server } from './cluster.ts';
import type { Fault } from './faults.ts';

/**
 * Waits until every kvstore server has gone over to the new primary: a write through it succeeds, which the old one no
 * longer commits. Whoever promotes has to keep the old primary from answering for so long (Patroni does it with a lease
 * and a watchdog): it would answer reads from the past, and neither it nor its readers could know.
 */
async function goneOver(servers: readonly Server[]): Promise<void> {
  await Promise.all(
    servers.map((server) => {
      const written = async () => {
        await server.call('putObject', [probeBucket, server.name, {}, {}]);
        return true;
      };
      return until(`${server.name} has gone over to the new primary`, written, 120_000);
    }),
  );
}

/** The primary goes, its standby becomes the primary, and the old one's host gets a new standby. */
export const failover: Readonly<Record<string, Fault>> = {
  kill: async ({ cluster: { postgres } }, random) => {
    await postgres.killPrimary();
    await sleep(random.below(300));
    await postgres.promoteStandby();
    await sleep(random.below(1_000));
    await postgres.addStandby();
  },
  /** It wakes up when another is the primary, and believes that it still is. */
  pause: async ({ cluster: { postgres, servers } }, random) => {
    const old = postgres.primary();
    await old.kill('SIGSTOP');
    await sleep(random.below(300));
    await postgres.promoteStandby();
    await goneOver(servers);
    await old.kill('SIGCONT');
    await sleep(random.below(1_000));
    await postgres.addStandby();
  },
  /** It is cut off from the kvstore servers, and can be reached again when another is the primary. */
  isolate: async ({ cluster: { postgres, servers } }, random) => {
    const ports = postgres.url.split(',').map((url) => Number(new URL(url).port));
    const host = ports.indexOf(postgres.primary().port);
    for (const { proxies } of servers) proxies[host]?.lose('requests', 'answers');
    await sleep(random.below(300));
    await postgres.promoteStandby();
    await goneOver(servers);
    for (const { proxies } of servers) proxies[host]?.heal();
    await sleep(random.below(1_000));
    await postgres.addStandby();
  },
};

/**
 * What the KV tier does not withstand: the old primary wakes up before all servers know of the new one, and is kept by
 * nobody from answering. Some seeds read from the past (docs/known-limits.md).
 */
export const unfenced: Readonly<Record<string, Fault>> = {
  pause: async ({ cluster: { postgres } }, random) => {
    const old = postgres.primary();
    await old.kill('SIGSTOP');
    await postgres.promoteStandby();
    await sleep(random.below(300));
    await old.kill('SIGCONT');
    await sleep(1_000);
    await postgres.addStandby();
  },
};
