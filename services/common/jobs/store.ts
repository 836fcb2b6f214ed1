import type { BatchOp, Kv, KvObject } from '../../../kvstore/types.ts';
import { currentTrace, newTrace } from '../../../runtime/trace.ts';
import { type JobRecord, jobRecordSchema, jobsBucketConfig } from './record.ts';

/** A job as it was read or last written. */
export interface StoredJob {
  readonly record: JobRecord;
  readonly etag: string;
  /** Grows with each job that is added. */
  readonly id: number;
}

/** Somebody else has taken the job over, or it is gone. */
export class JobLostError extends Error {
  constructor(uuid: string, runner: string | null) {
    super(`job ${uuid} is run by ${runner ?? 'nobody'}`);
    this.name = 'JobLostError';
  }
}

const unfinished = '(|(execution=queued)(execution=running))';

/**
 * The jobs of one service in the KV tier. Every change of a job goes through `write`, under the etag of the state it
 * follows from: of two who run one job, one alone gets on.
 */
export class JobStore {
  readonly bucket: string;
  readonly #kv: Kv;
  readonly #resource: string;

  /** `resource` is the field of a job that names what it works on. */
  constructor(kv: Kv, bucket: string, resource: string) {
    this.#kv = kv;
    this.bucket = bucket;
    this.#resource = resource;
  }

  ensure(): Promise<void> {
    return this.#kv.ensureBucket(this.bucket, jobsBucketConfig(this.#resource));
  }

  resourceOf(job: Readonly<Record<string, unknown>>): string {
    return String(job[this.#resource]);
  }

  /** A job that waits to be run, as part of the request in force. It exists once it is added. */
  newJob(uuid: string, name: string, resource: string, params: JobRecord['params']): JobRecord {
    const trace = currentTrace() ?? newTrace();
    const now = new Date();
    return {
      v: 1,
      uuid,
      name,
      [this.#resource]: resource,
      execution: 'queued',
      params,
      request_id: trace.requestId,
      traceparent: trace.traceparent,
      created_at: now.toISOString(),
      created: now.getTime(),
      ended_at: null,
      runner: null,
      writes: 0,
      phase: 'do',
      step: 0,
      step_started_at: null,
      deadline: null,
      data: {},
      chain_results: [],
      onerror_results: [],
    };
  }

  /**
   * Adds the job, and commits `ops` with it. Where there is one with its uuid nothing is written: the request is a
   * repeat, and the answer is the job that it made the first time.
   */
  async add(job: JobRecord, ops: readonly BatchOp[] = []): Promise<JobRecord> {
    const put: BatchOp = { operation: 'put', bucket: this.bucket, key: job.uuid, value: job, etag: null };
    try {
      await this.#kv.batch([put, ...ops]);
      return job;
    } catch (error) {
      const present = await this.get(job.uuid);
      if (present === undefined) throw error;
      return present.record;
    }
  }

  async get(uuid: string): Promise<StoredJob | undefined> {
    const found = await this.#kv.tryGet<unknown>(this.bucket, uuid);
    return found === undefined ? undefined : stored(found);
  }

  /** The newest jobs that match an LDAP filter, newest first. */
  async list(filter: string, limit: number, offset: number): Promise<JobRecord[]> {
    const sort = { attribute: 'created', order: 'DESC' } as const;
    const found = await this.#kv.find<unknown>(this.bucket, filter, { sort, limit, offset });
    return found.objects.map((object) => stored(object).record);
  }

  /** The jobs that have not ended, oldest first: of one resource, or all. */
  async unfinished(resource?: string): Promise<StoredJob[]> {
    const filter = resource === undefined ? unfinished : `(&(${this.#resource}=${resource})${unfinished})`;
    const found = await this.#kv.find<unknown>(this.bucket, filter, { noLimit: true });
    return found.objects.map(stored).sort((a, b) => a.id - b.id);
  }

  /**
   * Commits `ops` and the job's next state in one batch.
   * @throws JobLostError where the job was changed by another: nothing was written
   * @throws what the batch threw otherwise (EtagConflictError: one of `ops`): nothing was written, or the outcome is
   * unknown, and it is safe to try again
   */
  async write(job: StoredJob, next: JobRecord, ops: readonly BatchOp[] = []): Promise<StoredJob> {
    const record: JobRecord = { ...next, writes: job.record.writes + 1 };
    const put: BatchOp = {
      operation: 'put',
      bucket: this.bucket,
      key: record.uuid,
      value: record,
      etag: job.etag,
    };
    try {
      const { etags } = await this.#kv.batch([...ops, put]);
      const etag = etags.at(-1);
      if (typeof etag !== 'string') throw new Error('the batch answered no etag for the job');
      return { record, etag, id: job.id };
    } catch (error) {
      const now = await this.get(record.uuid);
      if (now?.etag === job.etag) throw error;
      const ours = now?.record.runner === record.runner && now.record.writes === record.writes;
      if (now === undefined || !ours) throw new JobLostError(record.uuid, now?.record.runner ?? null);
      return now;
    }
  }
}

function stored(object: KvObject<unknown>): StoredJob {
  return { record: jobRecordSchema.parse(object.value), etag: object._etag, id: object._id };
}
