import { randomUUID } from 'node:crypto';
import { type Broadcast, startBroadcast } from '../../changefeed/broadcast.ts';
import { openLogReader } from '../../changefeed/log/index.ts';
import type { LogReader } from '../../changefeed/types.ts';
import { createKv } from '../../kvstore/client.ts';
import type { Kv } from '../../kvstore/types.ts';
import type { Config } from '../../runtime/config.ts';
import type { Logger } from '../../runtime/log.ts';
import { type Runtime, runProcess } from '../../runtime/process.ts';
import type { Shutdown } from '../../runtime/shutdown.ts';
import { type App, closeHttp, createHttp, type validationStyles } from './http.ts';
import { RestClient } from './rest-client.ts';

export type ServiceName = keyof typeof validationStyles;

/** What a service is given to build its API from. */
export interface ServiceContext {
  readonly config: Config;
  readonly log: Logger;
  readonly shutdown: Shutdown;
  readonly app: App;
  readonly kv: Kv;
  readonly reader: LogReader;
  /** Every change, as this process sees it: for waits, feeds and caches. */
  readonly broadcast: Broadcast;
  /** Name of this instance, `vmapi0`. */
  readonly instance: string;
  /** Unique to this life of the process. */
  readonly member: string;
  /** A client of another service, over all its instances. */
  client(name: Exclude<ServiceName, 'adminui'>): RestClient;
}

/**
 * Connections that may wait to be accepted (Linux allows 4,096, Node asks for 511). When an instance dies its readers come
 * to another one together, and who finds no room is heard again only after TCP's pauses of 1, 3, 7 s and more.
 */
export const backlog = 4_096;

/**
 * The frame of every service: connects the KV tier and the log, lets `setup` add routes and consumers, listens, and
 * only then is ready. On shutdown it stops answering first, and lets go of the KV tier last.
 */
export function runService(name: ServiceName, setup: (context: ServiceContext) => Promise<void>): void {
  void runProcess(name, async (runtime) => {
    const context = await createServiceContext(name, runtime);
    await setup(context);
    const { host, port } = runtime.config;
    return { urls: [await context.app.listen({ host, port, backlog })] };
  });
}

export async function createServiceContext(name: ServiceName, runtime: Runtime): Promise<ServiceContext> {
  const { config, log, shutdown } = runtime;
  const instance = config.instance || name;
  const kv = createKv({ servers: config.kvstore, log });
  shutdown.add('kv', () => kv.close());
  const reader = await openLogReader(config, log);
  shutdown.add('log reader', () => reader.close());
  // As old as a cursor is resumed from where the log has dropped all there was: well within what it keeps.
  const resumeMs = Math.min(6, config.logRetainHours / 4) * 3_600_000;
  const broadcast = await startBroadcast({ reader, log, resumeMs });
  shutdown.add('broadcast', () => broadcast.stop());
  const clients = new Map<string, RestClient>();
  shutdown.add('clients', async () => {
    await Promise.all([...clients.values()].map((client) => client.close()));
  });
  const app = await createHttp({ name, instance, log });
  shutdown.add('http', () => closeHttp(app));
  return {
    config,
    log,
    shutdown,
    app,
    kv,
    reader,
    broadcast,
    instance,
    member: `${instance}-${randomUUID().slice(0, 8)}`,
    client: (other) => {
      const client = clients.get(other) ?? new RestClient(other, config[other]);
      clients.set(other, client);
      return client;
    },
  };
}
