import { setTimeout as sleep } from 'node:timers/promises';
import type { Fault } from './faults.ts';

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
  pause: async ({ cluster: { postgres } }, random) => {
    const old = postgres.primary();
    await old.kill('SIGSTOP');
    await sleep(random.below(300));
    await postgres.promoteStandby();
    await sleep(random.below(1_000));
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
    await sleep(random.below(1_000));
    for (const { proxies } of servers) proxies[host]?.heal();
    await sleep(random.below(1_000));
    await postgres.addStandby();
  },
};
