import { z } from 'zod';
import type { BucketConfig } from '../../../kvstore/types.ts';

const failureSchema = z.object({ code: z.string(), message: z.string() });

/** What came of one step, as Triton's workflow API tells it: `error` is '' where there was none. */
const chainResultSchema = z.object({
  name: z.string(),
  result: z.string(),
  error: z.union([z.literal(''), failureSchema]),
  started_at: z.string(),
  finished_at: z.string(),
});

/**
 * A job as it is kept, key = uuid; the field that names its resource (`vm_uuid`) stands beside these. Times are ISO
 * 8601, `created` and `deadline` milliseconds since 1970.
 */
export const jobRecordSchema = z.looseObject({
  v: z.literal(1),
  uuid: z.string(),
  /** Name and version of the table of steps that it follows: `start-1.0.0`. */
  name: z.string(),
  execution: z.enum(['queued', 'running', 'succeeded', 'failed']),
  params: z.record(z.string(), z.unknown()),
  request_id: z.string(),
  traceparent: z.string(),
  created_at: z.string(),
  created: z.number(),
  ended_at: z.string().nullable(),
  /** Who runs it; whoever takes it over writes a name of its own here, and the other's next write conflicts. */
  runner: z.string().nullable(),
  /** Counts the writes, so that no two are alike. */
  writes: z.number().int(),
  /** Steps are done forwards; after a failure they are undone backwards, from the one that failed. */
  phase: z.enum(['do', 'undo']),
  /** The index of the step that is being done or undone. */
  step: z.number().int(),
  step_started_at: z.string().nullable(),
  /** When the step in hand has failed for want of time; null: never. */
  deadline: z.number().nullable(),
  /** What steps found out, for those that follow. */
  data: z.record(z.string(), z.unknown()),
  chain_results: z.array(chainResultSchema),
  /** What came of the undoing. */
  onerror_results: z.array(chainResultSchema),
});

export type JobRecord = z.infer<typeof jobRecordSchema>;
export type ChainResult = z.infer<typeof chainResultSchema>;
export type JobFailure = z.infer<typeof failureSchema>;

/** The bucket of a service's jobs; changes of one resource's jobs are in order. */
export function jobsBucketConfig(resource: string): BucketConfig {
  return {
    index: {
      uuid: { type: 'string', unique: true },
      [resource]: { type: 'string' },
      execution: { type: 'string' },
      name: { type: 'string' },
      request_id: { type: 'string' },
      created: { type: 'number' },
    },
    options: { version: 1, partition: resource },
  };
}

export function hasEnded(job: Pick<JobRecord, 'execution'>): boolean {
  return job.execution === 'succeeded' || job.execution === 'failed';
}
