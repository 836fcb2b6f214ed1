import { CongerError, isCongerError } from '../../runtime/errors.ts';
import type { Bucket } from './bucket.ts';
import { stateOf } from './database.ts';
import type { Registry } from './registry.ts';

/** Thrown inside a read or transaction whose bucket turns out to be of another generation than it was made for. */
export class StaleBucket extends Error {
  readonly bucket: Bucket;

  constructor(bucket: Bucket) {
    super(`${bucket.name} is no longer of generation ${bucket.generation}`);
    this.bucket = bucket;
  }
}

/** Thrown inside a transaction that lost a race and may succeed when it is made again. */
export class LostRace extends Error {}

const races = new Set(['40P01', '40001']);
/** What PostgreSQL answers to a statement made for another shape of the table. */
const shapes = new Set(['42P01', '42703', '42804', '42883', '42846', '0A000']);
export const maxAttempts = 10;

export function isRace(error: unknown): boolean {
  return error instanceof LostRace || races.has(stateOf(error) ?? '');
}

/** Whether PostgreSQL refused the data of a statement (not its form, nor for want of something). */
export function isDataError(error: unknown): boolean {
  const state = stateOf(error);
  return state !== undefined && /^(22|23|54)/.test(state);
}

/**
 * Whether `error` says that `bucket` is out of date. Where the registry still has the same generation it is not: the
 * error is then what it seems.
 */
export async function isStale(error: unknown, bucket: Bucket, registry: Registry): Promise<boolean> {
  if (error instanceof StaleBucket) {
    registry.outdated(error.bucket);
    return true;
  }
  if (!shapes.has(stateOf(error) ?? '')) return false;
  registry.outdated(bucket);
  return (await registry.load(bucket.name)).generation !== bucket.generation;
}

/**
 * Runs `work` with the bucket, again where the bucket was out of date or a race was lost.
 * A query that the bucket as we know it cannot answer is tried once more with the bucket as it is.
 */
export async function withBucket<T>(
  registry: Registry,
  name: string,
  fresh: boolean,
  work: (bucket: Bucket) => Promise<T>,
): Promise<T> {
  let bucket = await (fresh ? registry.load(name) : registry.get(name));
  for (let attempt = 1; ; attempt++) {
    try {
      return await work(bucket);
    } catch (error) {
      if (attempt >= maxAttempts) throw givenUp(error);
      if (isRace(error)) continue;
      const doubtful = isCongerError(error, 'InvalidQueryError', 'NotIndexedError');
      if (!doubtful && !(await isStale(error, bucket, registry))) throw error;
      const now = await registry.load(name);
      if (doubtful && now.generation === bucket.generation) throw error;
      bucket = now;
    }
  }
}

/** What a race that was lost too often becomes. */
export function givenUp(error: unknown): unknown {
  if (!isRace(error) && !(error instanceof StaleBucket)) return error;
  return new CongerError('OverloadedError', 'too many concurrent changes; try again shortly', {
    context: { retryAfterMs: 100 },
    cause: error,
  });
}
