import { desiredBucket } from '../../agents/contract/desired.ts';
import { ensureConsumerBuckets, startConsumer } from '../../changefeed/consumer.ts';
import { httpFeed } from '../../changefeed/feeds/http.ts';
import { tritonFeed } from '../../changefeed/feeds/triton.ts';
import { vmsBucket } from '../common/records.ts';
import type { ServiceContext } from '../common/service.ts';
import { presentRule, type RuleRecord, rulesBucket } from './models/rule.ts';
import { ruleItem } from './models/rule-item.ts';
import {
  bootstrapFirewall,
  nudgesBucket,
  projectedBuckets,
  projectFirewall,
} from './projection/projection.ts';
import { pingRoute } from './routes/ping.ts';
import { ruleVmRoutes } from './routes/rule-vms.ts';
import { ruleRoutes } from './routes/rules.ts';

/** FWAPI on a service's context: its buckets, its routes and feeds, and its share of the firewall. */
export async function setupFwapi(context: ServiceContext): Promise<void> {
  const { app, broadcast, kv, reader, log, member, shutdown } = context;
  for (const bucket of [vmsBucket, rulesBucket, nudgesBucket, desiredBucket])
    await kv.ensureBucket(bucket.name, bucket.config);
  await ensureConsumerBuckets(kv);
  ruleRoutes(context);
  ruleVmRoutes(context);
  pingRoute(context);
  const rule = {
    bucket: rulesBucket.name,
    all: '(uuid=*)',
    index: rulesBucket.config.index,
    present: (value: unknown) => presentRule(value as RuleRecord),
  };
  await app.register(httpFeed, { broadcast, kv, resources: { rule } });
  await app.register(tritonFeed, { broadcast, log, resources: [ruleItem] });
  const consumer = await startConsumer({
    name: 'fwapi-firewall',
    member,
    reader,
    kv,
    log,
    buckets: projectedBuckets,
    handle: (changes) => projectFirewall(kv, changes),
    bootstrap: (context, apply) => bootstrapFirewall(kv, context, apply),
  });
  shutdown.add('firewall projection', () => consumer.stop());
}
