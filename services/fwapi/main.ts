import { desiredBucket } from '../../agents/contract/desired.ts';
import { ensureCheckpointBucket, startConsumer } from '../../changefeed/consumer.ts';
import { vmsBucket } from '../common/records.ts';
import { runService } from '../common/service.ts';
import { rulesBucket } from './models/rule.ts';
import { nudgesBucket, projectedBuckets, projectFirewall } from './projection/projection.ts';
import { firewallRoutes } from './routes/firewalls.ts';
import { ruleRoutes } from './routes/rules.ts';

runService('fwapi', async (context) => {
  const { kv, reader, log, member, shutdown } = context;
  for (const bucket of [vmsBucket, rulesBucket, nudgesBucket, desiredBucket])
    await kv.ensureBucket(bucket.name, bucket.config);
  await ensureCheckpointBucket(kv);
  ruleRoutes(context);
  firewallRoutes(context);
  const consumer = await startConsumer({
    name: 'fwapi-firewall',
    member,
    reader,
    kv,
    log,
    buckets: projectedBuckets,
    handle: (changes) => projectFirewall(kv, changes),
  });
  shutdown.add('firewall projection', () => consumer.stop());
});
