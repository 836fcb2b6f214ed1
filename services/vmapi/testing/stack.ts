import { Capture } from '../../../changefeed/capture/capture.ts';
import { openLogWriter } from '../../../changefeed/log/index.ts';
import { type Config, loadConfig } from '../../../runtime/config.ts';
import { createLogger, type Logger } from '../../../runtime/log.ts';
import { Shutdown } from '../../../runtime/shutdown.ts';
import { startKvstore } from '../../../test/fixtures/kvstore.ts';
import { startPostgres } from '../../../test/fixtures/postgres.ts';
import { createServiceContext, type ServiceContext } from '../../common/service.ts';

export type ServiceName = 'cnapi' | 'vmapi' | 'napi' | 'fwapi';

/** One instance of a service, inside this process. */
export interface TestInstance {
  readonly context: ServiceContext;
  readonly url: string;
  stop(): Promise<void>;
}

/** What services stand on, inside this process: PostgreSQL, a kvstore server, the capture and the embedded log. */
export interface Stack {
  readonly config: Config;
  readonly log: Logger;
  /** Starts an instance of a service: `setup` is what its main.ts gives to runService. */
  start(
    name: ServiceName,
    setup: (context: ServiceContext) => Promise<void>,
    overrides?: Partial<Config>,
  ): Promise<TestInstance>;
  /** Stops every instance and all that they stand on. */
  stop(): Promise<void>;
}

/** Starts a stack; `CONGER_LOG_LEVEL` (default `silent`) says how much it logs. */
export async function startStack(): Promise<Stack> {
  const postgres = await startPostgres();
  const kvstore = await startKvstore(postgres.url);
  const config = loadConfig({
    CONGER_POSTGRES: postgres.url,
    CONGER_KVSTORE: kvstore.url,
    CONGER_PARTITIONS: '4',
    CONGER_LOG_LEVEL: process.env.CONGER_LOG_LEVEL ?? 'silent',
  });
  const log = createLogger('stack', config.logLevel);
  const capture = new Capture({
    postgres: config.postgres,
    slot: config.captureSlot,
    partitions: config.partitions,
    openWriter: () => openLogWriter(config, log),
    log,
  });
  await capture.start();
  const instances: TestInstance[] = [];

  return {
    config,
    log,
    start: async (name, setup, overrides = {}) => {
      const number = instances.filter((i) => i.context.instance.startsWith(name)).length;
      const own = { ...config, ...overrides, instance: `${name}${number}` };
      const shutdown = new Shutdown(log);
      const context = await createServiceContext(name, {
        config: own,
        log: createLogger(own.instance, own.logLevel),
        shutdown,
      });
      await setup(context);
      const url = await context.app.listen({ host: own.host, port: 0 });
      const instance = { context, url, stop: () => shutdown.run() };
      instances.push(instance);
      return instance;
    },
    stop: async () => {
      for (const instance of instances) await instance.stop();
      await capture.stop();
      await kvstore.stop();
      await postgres.stop();
    },
  };
}
