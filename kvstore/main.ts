import { setTimeout as delay } from 'node:timers/promises';
import { messageOf } from '../runtime/errors.ts';
import { type Runtime, runProcess } from '../runtime/process.ts';
import { FastServer } from './fast/server.ts';
import { serveHealth } from './health.ts';
import type { Hook } from './hooks/hook.ts';
import { loadHooks } from './hooks/loader.ts';
import { createStore } from './store/index.ts';

/** How long PostgreSQL may take to answer when the server starts. */
const startMs = 60_000;
/** How long calls in flight may take to finish when the server ends. */
const graceMs = 3_000;

type Store = Awaited<ReturnType<typeof createStore>>;

await runProcess('kvstore', async (runtime) => {
  const { config, log, shutdown } = runtime;
  // A module that does not load ends the server here, not a write later.
  const hooks = await loadHooks(config.hooks);
  const store = await openStore(runtime, hooks);
  shutdown.add('store', () => store.close());

  const health = await serveHealth(config.host, config.metricsPort, async () => {
    await store.ping();
    return store.warning();
  });
  shutdown.add('health', () => {
    health.close();
    health.closeAllConnections();
  });

  const server = await FastServer.listen({ rpcs: store.rpcs, log, host: config.host, port: config.port });
  shutdown.add('fast server', () => server.close(graceMs));
  shutdown.add('listeners', () => store.endListeners());

  log.info({ metrics: health.address() }, 'serving health and metrics');
  return { urls: [`tcp://${config.host}:${server.port}`] };
});

/** Opens the store as soon as PostgreSQL answers, and gives up after a minute. */
async function openStore(
  { config, log, shutdown }: Runtime,
  hooks: ReadonlyMap<string, Hook>,
): Promise<Store> {
  const until = performance.now() + startMs;
  for (let pause = 50; ; pause = Math.min(pause * 2, 2_000)) {
    try {
      return await createStore({
        url: config.postgres,
        poolSize: config.postgresPool,
        log,
        sql: config.sql,
        hooks,
        slot: { name: config.captureSlot, budget: config.walBudgetMb * 2 ** 20 },
      });
    } catch (error) {
      if (performance.now() + pause > until || shutdown.signal.aborted) throw error;
      log.warn({ err: error }, `PostgreSQL does not answer yet: ${messageOf(error)}`);
      await delay(pause);
    }
  }
}
