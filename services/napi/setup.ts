import { desiredBucket } from '../../agents/contract/desired.ts';
import { ensureConsumerBuckets, startConsumer } from '../../changefeed/consumer.ts';
import { httpFeed } from '../../changefeed/feeds/http.ts';
import { tritonFeed } from '../../changefeed/feeds/triton.ts';
import type { ServiceContext } from '../common/service.ts';
import { Candidates } from './allocation/candidates.ts';
import { Nics } from './allocation/nics.ts';
import { ensureUnderlay } from './ensure-underlay.ts';
import {
  fabricsBucket,
  networksBucket,
  nicsBucket,
  nicTagsBucket,
  nudgesBucket,
  turnsBucket,
  underlayBucket,
  vlansBucket,
  vnetMacIpBucket,
} from './models/buckets.ts';
import { feedResources, tritonResources } from './models/items.ts';
import { bootstrapOverlays, projectedBuckets, projectOverlays } from './projection/projection.ts';
import { fabricNetworkRoutes } from './routes/fabric-networks.ts';
import { ipRoutes } from './routes/ips.ts';
import { networkRoutes } from './routes/networks.ts';
import { nicTagRoutes } from './routes/nic-tags.ts';
import { nicRoutes } from './routes/nics.ts';
import { pingRoute } from './routes/ping.ts';
import { vlanRoutes } from './routes/vlans.ts';

const buckets = [
  networksBucket,
  nicTagsBucket,
  nicsBucket,
  fabricsBucket,
  vlansBucket,
  vnetMacIpBucket,
  underlayBucket,
  nudgesBucket,
  turnsBucket,
  desiredBucket,
];

/** NAPI on a service's context: its buckets, its routes and feeds, and its share of the overlays. */
export async function setupNapi(context: ServiceContext): Promise<void> {
  const { app, broadcast, config, kv, reader, log, member, shutdown } = context;
  for (const bucket of buckets) await kv.ensureBucket(bucket.name, bucket.config);
  await ensureConsumerBuckets(kv);
  await ensureUnderlay(kv, config.underlaySubnet);
  pingRoute(context);
  nicTagRoutes(context);
  networkRoutes(context);
  ipRoutes(context);
  nicRoutes(context, new Nics(kv, new Candidates(kv)));
  vlanRoutes(context);
  fabricNetworkRoutes(context);
  await app.register(httpFeed, { broadcast, kv, resources: feedResources });
  await app.register(tritonFeed, { broadcast, log, resources: tritonResources });
  const consumer = await startConsumer({
    name: 'napi-overlay',
    member,
    reader,
    kv,
    log,
    buckets: projectedBuckets,
    handle: (changes) => projectOverlays(kv, changes),
    bootstrap: (context, apply) => bootstrapOverlays(kv, context, apply),
  });
  shutdown.add('overlay projection', () => consumer.stop());
}
