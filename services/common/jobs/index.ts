import { type Broadcast, WaitTimeoutError } from '../../../changefeed/broadcast.ts';
import { startConsumer } from '../../../changefeed/consumer.ts';
import type { LogReader } from '../../../changefeed/types.ts';
import type { Kv } from '../../../kvstore/types.ts';
import { CongerError } from '../../../runtime/errors.ts';
import type { Logger } from '../../../runtime/log.ts';
import { JobEngine } from './engine.ts';
import { hasEnded, type JobRecord } from './record.ts';
import type { JobDefinition } from './steps.ts';
import type { JobStore } from './store.ts';

export interface JobsOptions {
  /** Names the group of instances that share the jobs: `vmapi-jobs`. */
  readonly name: string;
  readonly store: JobStore;
  readonly definitions: readonly JobDefinition[];
  readonly kv: Kv;
  readonly reader: LogReader;
  readonly broadcast: Broadcast;
  readonly log: Logger;
  readonly member: string;
}

export interface Jobs {
  /** Says that the resource has a job to run; whoever owns it learns so from the feed as well, a little later. */
  wake(resource: string): void;
  stop(): Promise<void>;
}

/** Shares the jobs among the service's instances and runs this one's share. The consumers' buckets must be there. */
export async function startJobs(options: JobsOptions): Promise<Jobs> {
  const { name, store, kv, reader, member, log } = options;
  const engine = new JobEngine({ ...options, partitions: reader.partitions });
  const consumer = await startConsumer({
    name,
    member,
    reader,
    kv,
    log,
    buckets: [store.bucket],
    handle: async (changes) => {
      for (const { value } of changes) {
        const job = value as Readonly<Record<string, unknown>> | null;
        if (job !== null && !engine.isOwn(job.runner)) engine.wake(store.resourceOf(job));
      }
      return [];
    },
    bootstrap: async ({ partition }) => {
      engine.missed(partition);
      return undefined;
    },
    onAssigned: ({ partition }) => engine.assigned(partition),
    onRevoked: ({ partition }) => engine.revoked(partition),
  });
  return {
    wake: (resource) => engine.wake(resource),
    stop: async () => {
      await engine.stop();
      await consumer.stop();
    },
  };
}

/**
 * The job once it has ended, or as it is after `timeoutMs`.
 * @throws CongerError ResourceNotFound; ServiceUnavailable when this process ends
 */
export async function waitForJob(
  store: JobStore,
  broadcast: Broadcast,
  uuid: string,
  timeoutMs: number,
): Promise<JobRecord> {
  const read = async () => {
    const job = await store.get(uuid);
    if (job === undefined) throw new CongerError('ResourceNotFound', `job ${uuid} does not exist`);
    return job.record;
  };
  try {
    return await broadcast.waitFor({ bucket: store.bucket, key: uuid, timeoutMs }, async () => {
      const job = await read();
      return hasEnded(job) ? job : undefined;
    });
  } catch (error) {
    if (error instanceof WaitTimeoutError) return read();
    throw error;
  }
}
