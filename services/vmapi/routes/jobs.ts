import { z } from 'zod';
import { CongerError } from '../../../runtime/errors.ts';
import { waitForJob } from '../../common/jobs/index.ts';
import type { JobRecord } from '../../common/jobs/record.ts';
import { vmTasks } from '../jobs/index.ts';
import { number, uuid } from '../models/params.ts';
import type { VmApi } from '../submit.ts';
import { loadVm, vmPath } from './load.ts';

const executions = ['queued', 'running', 'succeeded', 'failed'] as const;
const filters = {
  execution: z.enum(executions, { error: `Must be one of: ${executions.join(', ')}` }).optional(),
  task: z.enum(vmTasks, { error: `Must be one of: ${vmTasks.join(', ')}` }).optional(),
  limit: number(1, 1000).optional(),
  offset: number().optional(),
};
const listQuery = z.strictObject({ ...filters, vm_uuid: uuid.optional() });
const vmQuery = z.strictObject({ ...filters, owner_uuid: uuid.optional() });
const jobPath = z.object({ job_uuid: uuid });
const waitQuery = z.strictObject({
  timeout: number(1, 3600).optional().describe('seconds; 3600 if not given'),
});

/** GET /jobs, /jobs/:job_uuid, /jobs/:job_uuid/wait and /vms/:uuid/jobs, in the workflow API's form. */
export function jobRoutes(api: VmApi): void {
  const { app, kv, broadcast } = api.context;
  const { store } = api;

  const list = async (query: z.output<typeof listQuery>) => {
    const parts = [
      ...(query.vm_uuid === undefined ? [] : [`(vm_uuid=${query.vm_uuid})`]),
      ...(query.execution === undefined ? [] : [`(execution=${query.execution})`]),
      ...(query.task === undefined ? [] : [`(name=${query.task.replaceAll('_', '-')}-1*)`]),
    ];
    const filter = parts.length === 0 ? '(uuid=*)' : `(&${parts.join('')})`;
    return (await store.list(filter, query.limit ?? 1000, query.offset ?? 0)).map(presentJob);
  };

  app.get('/jobs', { schema: { querystring: listQuery } }, (request) => list(request.query));

  app.get('/vms/:uuid/jobs', { schema: { params: vmPath, querystring: vmQuery } }, async (request) => {
    const { owner_uuid, ...query } = request.query;
    const vm = await loadVm(kv, request.params.uuid, owner_uuid);
    return list({ ...query, vm_uuid: vm.key });
  });

  app.get('/jobs/:job_uuid', { schema: { params: jobPath } }, async (request) => {
    const job = await store.get(request.params.job_uuid);
    if (job === undefined) {
      throw new CongerError('ResourceNotFound', `Job with uuid ${request.params.job_uuid} does not exist`);
    }
    return presentJob(job.record);
  });

  app.get(
    '/jobs/:job_uuid/wait',
    { schema: { params: jobPath, querystring: waitQuery } },
    async (request) => {
      const timeoutMs = (request.query.timeout ?? 3600) * 1000;
      return presentJob(await waitForJob(store, broadcast, request.params.job_uuid, timeoutMs));
    },
  );
}

/** A job as the workflow API answers it. */
export function presentJob(job: JobRecord): Readonly<Record<string, unknown>> {
  return {
    uuid: job.uuid,
    name: job.name,
    execution: job.execution,
    params: job.params,
    vm_uuid: job.vm_uuid,
    exec_after: job.created_at,
    created_at: job.created_at,
    ended_at: job.ended_at,
    timeout: 3600,
    chain_results: job.chain_results,
    onerror_results: job.onerror_results,
  };
}
