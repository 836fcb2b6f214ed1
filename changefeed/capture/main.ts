import { runProcess } from '../../runtime/process.ts';
import { openLogWriter } from '../log/index.ts';
import { Capture } from './capture.ts';
import { serveHealth } from './health.ts';

await runProcess('capture', async ({ config, log, shutdown }) => {
  const capture = new Capture({
    postgres: config.postgres,
    slot: config.captureSlot,
    partitions: config.partitions,
    openWriter: () => openLogWriter(config, log),
    walBudget: config.walBudgetMb * 2 ** 20,
    spool: { directory: config.captureSpool, limit: config.captureSpoolMb * 2 ** 20 },
    log,
  });
  const health = await serveHealth(config.host, config.metricsPort, capture);
  shutdown.add('health', () => health.close());
  shutdown.add('capture', () => capture.stop());
  await capture.start();
  return { urls: [health.url] };
});
