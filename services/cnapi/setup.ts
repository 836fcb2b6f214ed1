import { desiredBucket } from '../../agents/contract/desired.ts';
import { ensureConsumerBuckets } from '../../changefeed/consumer.ts';
import { httpFeed } from '../../changefeed/feeds/http.ts';
import { tritonFeed } from '../../changefeed/feeds/triton.ts';
import { vmsBucket } from '../common/records.ts';
import type { ServiceContext } from '../common/service.ts';
import { startHeirs } from './liveness/heirs.ts';
import { Liveness } from './liveness/liveness.ts';
import { heardByOthers } from './liveness/peers.ts';
import { serversBucket, statusBucket, tasksBucket } from './models/buckets.ts';
import { presentServer, type ServerRecord } from './models/server.ts';
import { serverItem } from './models/server-item.ts';
import { agentRoutes } from './routes/agent.ts';
import { allocateRoutes } from './routes/allocate.ts';
import { heartbeatRoutes } from './routes/heartbeats.ts';
import { pingRoute } from './routes/ping.ts';
import { serverRoutes } from './routes/servers.ts';
import { sysinfoRoutes } from './routes/sysinfo.ts';
import { taskRoutes } from './routes/tasks.ts';

/** CNAPI on a service's context: its buckets, routes and feeds, and the nodes that it hears. */
export async function setupCnapi(
  context: ServiceContext,
  options: { readonly silenceMs?: number | undefined } = {},
): Promise<void> {
  const { app, broadcast, config, kv, log, member, shutdown } = context;
  for (const bucket of [serversBucket, statusBucket, tasksBucket, vmsBucket, desiredBucket]) {
    await kv.ensureBucket(bucket.name, bucket.config);
  }
  await ensureConsumerBuckets(kv);
  const liveness = new Liveness({
    kv,
    log,
    member,
    heardElsewhere: (server) => heardByOthers(config.cnapi, member, server),
    ...options,
  });
  shutdown.add('liveness', () => liveness.close());

  pingRoute(context);
  serverRoutes(context);
  sysinfoRoutes(context);
  heartbeatRoutes(context, liveness);
  taskRoutes(context);
  allocateRoutes(context);
  agentRoutes(context, liveness);
  const server = {
    bucket: serversBucket.name,
    all: '(uuid=*)',
    index: serversBucket.config.index,
    present: (value: unknown) => presentServer(value as ServerRecord, undefined, { sysinfo: true }),
  };
  await app.register(httpFeed, { broadcast, kv, resources: { server } });
  await app.register(tritonFeed, { broadcast, log, resources: [serverItem] });
  await startHeirs(context, liveness);
}
