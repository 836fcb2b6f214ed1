import { desiredBucket } from '../../agents/contract/desired.ts';
import { ensureConsumerBuckets } from '../../changefeed/consumer.ts';
import { httpFeed } from '../../changefeed/feeds/http.ts';
import { tritonFeed } from '../../changefeed/feeds/triton.ts';
import { startJobs } from '../common/jobs/index.ts';
import { type JobRecord, jobsBucketConfig } from '../common/jobs/record.ts';
import { JobStore } from '../common/jobs/store.ts';
import { vmsBucket } from '../common/records.ts';
import type { ServiceContext } from '../common/service.ts';
import { vmJobs, vmJobsBucket, vmJobsResource } from './jobs/index.ts';
import { presentVm, type Vm } from './models/vm.ts';
import { vmItem } from './models/vm-item.ts';
import { actionRoute } from './routes/actions.ts';
import { createRoute } from './routes/create.ts';
import { jobRoutes, presentJob } from './routes/jobs.ts';
import { metadataRoutes } from './routes/metadata.ts';
import { pingRoute } from './routes/ping.ts';
import { reportRoutes } from './routes/reports.ts';
import { validatorCompiler } from './routes/validation.ts';
import { vmRoutes } from './routes/vms.ts';

/** How long a node may take to do what a job asks of it. */
const defaultNodeTimeoutMs = 300_000;

/** VMAPI on a service's context: its buckets, its share of the jobs, its routes and feeds. */
export async function setupVmapi(
  context: ServiceContext,
  /** Looked at whenever a job begins to wait for a node. */
  options: { readonly nodeTimeoutMs?: number } = {},
): Promise<void> {
  const { app, broadcast, kv, log, member, reader, shutdown } = context;
  const store = new JobStore(kv, vmJobsBucket, vmJobsResource);
  for (const bucket of [vmsBucket, desiredBucket]) await kv.ensureBucket(bucket.name, bucket.config);
  await store.ensure();
  await ensureConsumerBuckets(kv);

  const definitions = vmJobs({
    kv,
    napi: context.client('napi'),
    cnapi: context.client('cnapi'),
    nodeTimeoutMs: () => options.nodeTimeoutMs ?? defaultNodeTimeoutMs,
  });
  const jobs = await startJobs({
    name: 'vmapi-jobs',
    store,
    definitions: Object.values(definitions),
    kv,
    reader,
    broadcast,
    log,
    member,
  });
  shutdown.add('jobs', () => jobs.stop());

  const api = { context, store, jobs, definitions };
  app.setValidatorCompiler(validatorCompiler);
  vmRoutes(api);
  createRoute(api);
  actionRoute(api);
  metadataRoutes(api);
  reportRoutes(api);
  jobRoutes(api);
  pingRoute(context);
  const all = '(uuid=*)';
  const resources = {
    vm: {
      bucket: vmsBucket.name,
      all,
      index: vmsBucket.config.index,
      present: (value: unknown) => presentVm(value as Vm),
    },
    job: {
      bucket: vmJobsBucket,
      all,
      index: jobsBucketConfig(vmJobsResource).index,
      present: (value: unknown) => presentJob(value as JobRecord),
    },
  };
  await app.register(httpFeed, { broadcast, kv, resources });
  await app.register(tritonFeed, { broadcast, log, resources: [vmItem] });
}
