import type { FastifyReply, FastifyRequest } from 'fastify';
import type { BatchOp } from '../../kvstore/types.ts';
import { CongerError } from '../../runtime/errors.ts';
import { requestKey } from '../common/http.ts';
import { type Jobs, waitForJob } from '../common/jobs/index.ts';
import type { JobRecord } from '../common/jobs/record.ts';
import type { JobDefinition } from '../common/jobs/steps.ts';
import type { JobStore } from '../common/jobs/store.ts';
import type { ServiceContext } from '../common/service.ts';
import type { VmTask } from './jobs/index.ts';
import { callId } from './models/create.ts';

/** How long a call with `sync=true` waits, as long as Triton's does. */
const syncMs = 3_600_000;

/** What VMAPI's routes stand on. */
export interface VmApi {
  readonly context: ServiceContext;
  readonly store: JobStore;
  readonly jobs: Jobs;
  readonly definitions: Readonly<Record<VmTask, JobDefinition>>;
}

/** The VM that a job is about, as the job's parameters name it. */
export interface Target {
  readonly uuid: string;
  readonly owner_uuid: string;
  readonly server_uuid: string | null;
}

export interface Submission {
  readonly task: VmTask;
  readonly target: Target;
  /** What is asked for, besides the VM and the task: a request that asks for the same again is a repeat. */
  readonly what: unknown;
  /** Who asks, for the record. */
  readonly by: { readonly origin?: string | undefined; readonly creator_uuid?: string | undefined };
  readonly params: JobRecord['params'];
  /** Committed with the job, or not at all. */
  readonly ops?: readonly BatchOp[];
}

/** The UUID of the job that a request makes. */
export function jobUuid(
  request: FastifyRequest,
  { task, target, what }: Omit<Submission, 'by' | 'params'>,
): string {
  return callId(requestKey(request), task, target.uuid, what);
}

/** Adds the job, once for each request however often it is repeated, and sees to it that it is run. */
export async function submit(api: VmApi, request: FastifyRequest, given: Submission): Promise<JobRecord> {
  const { task, target, by, params, ops } = given;
  const context = contextOf(request);
  const job = api.store.newJob(jobUuid(request, given), api.definitions[task].name, target.uuid, {
    task,
    target: `/${task.replaceAll('_', '-')}-${target.uuid}`,
    vm_uuid: target.uuid,
    owner_uuid: target.owner_uuid,
    server_uuid: target.server_uuid,
    'x-request-id': request.id,
    ...(by.origin === undefined ? {} : { origin: by.origin }),
    ...(by.creator_uuid === undefined ? {} : { creator_uuid: by.creator_uuid }),
    ...(context === undefined ? {} : { context }),
    ...params,
  });
  const added = await api.store.add(job, ops);
  api.jobs.wake(target.uuid);
  return added;
}

/** Answers a job response, at once or, with `sync`, when the job has ended. @throws CongerError JobFailed */
export async function answerJob(
  api: VmApi,
  request: FastifyRequest,
  reply: FastifyReply,
  job: JobRecord,
  sync: boolean | undefined,
): Promise<{ vm_uuid: string; job_uuid: string }> {
  void reply.header('workflow-api', ownUrl(request)).code(202);
  const answer = { vm_uuid: api.store.resourceOf(job), job_uuid: job.uuid };
  if (sync !== true) return answer;
  const { store, context } = api;
  const ended = await waitForJob(store, context.broadcast, job.uuid, syncMs);
  if (ended.execution !== 'succeeded') {
    const error = ended.chain_results.at(-1)?.error;
    const why = error === undefined || error === '' ? ended.execution : error.message;
    throw new CongerError('JobFailed', `job ${job.uuid}: ${why}`, { context: answer });
  }
  return answer;
}

/** The URL at which the caller has reached this instance: it answers for jobs, as the workflow API does. */
function ownUrl(request: FastifyRequest): string {
  const { localAddress = '127.0.0.1', localPort = 0, localFamily } = request.raw.socket;
  return `http://${localFamily === 'IPv6' ? `[${localAddress}]` : localAddress}:${localPort}`;
}

function contextOf(request: FastifyRequest): unknown {
  const header = request.headers['x-context'];
  if (typeof header !== 'string') return undefined;
  try {
    return JSON.parse(header);
  } catch {
    return undefined;
  }
}
