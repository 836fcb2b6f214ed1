import type { AddressInfo } from 'node:net';
import { type FastifyInstance, fastify } from 'fastify';
import { serializerCompiler, validatorCompiler } from 'fastify-type-provider-zod';
import { silentLogger } from '../../runtime/log.ts';
import { type Broadcast, type BroadcastOptions, startBroadcast } from '../broadcast.ts';
import type { TestLog, TestReader } from './log.ts';

/** An instance of a service as a feed sees it: a server of its own, with a broadcast of its own. */
export interface TestInstance {
  readonly app: FastifyInstance;
  readonly broadcast: Broadcast;
  readonly reader: TestReader;
  readonly url: string;
  stop(): Promise<void>;
}

export async function startInstance(
  log: TestLog,
  setup: (app: FastifyInstance, broadcast: Broadcast) => Promise<void>,
  options: Partial<BroadcastOptions> = {},
): Promise<TestInstance> {
  const reader = log.reader();
  const broadcast = await startBroadcast({ reader, log: silentLogger(), ...options });
  const app = fastify({ forceCloseConnections: 'idle' });
  app.setValidatorCompiler(validatorCompiler);
  app.setSerializerCompiler(serializerCompiler);
  await setup(app, broadcast);
  await app.listen({ host: '127.0.0.1', port: 0 });
  const url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`;
  const stop = async () => {
    // A client that reads nothing keeps its connection.
    const impatience = setTimeout(() => app.server.closeAllConnections(), 1_000);
    await app.close();
    clearTimeout(impatience);
    await broadcast.stop();
  };
  return { app, broadcast, reader, url, stop };
}
