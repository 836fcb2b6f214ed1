import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { CongerError, isCongerError } from '../../runtime/errors.ts';
import type { BucketConfig, OnReindexed } from '../types.ts';
import type { Caller } from './caller.ts';
import { checkBucketName } from './checks.ts';

const json = z.string().transform((text, context): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    context.issues.push({ code: 'custom', message: 'not JSON', input: text });
    return z.NEVER;
  }
});
const bucketSchema = z.object({
  index: json,
  pre: json,
  post: json,
  options: json.pipe(
    z.object({
      version: z.number().optional(),
      partition: z.string().optional(),
      feed: z.boolean().optional(),
    }),
  ),
  /** Fields whose index does not hold every object yet, by the version that brought them. */
  reindex_active: json.pipe(z.record(z.string(), z.unknown()).nullable()).nullish(),
});
const reindexSchema = z.object({ processed: z.number(), remaining: z.number().default(0) });

/** Objects that one call of a reindexing goes over. */
const reindexChunk = 500;

/** An update is looked at again, and so is a bucket that another process sets up at the same time; so often at most. */
const tries = 8;

/**
 * Creates the bucket or brings it up to `config`'s version; never down, so that two versions of a service can start
 * in any order. Where neither side has a version, a differing configuration is brought in line. New indexes hold
 * every object when this resolves.
 */
export async function ensureBucket(
  caller: Caller,
  name: string,
  config: BucketConfig,
  onReindexed: OnReindexed,
): Promise<void> {
  checkBucketName(name);
  let conflict: unknown;
  for (let attempt = 0; attempt < tries; attempt++) {
    try {
      const current = await getBucket(caller, name);
      if (current === undefined) {
        await write(caller, 'createBucket', name, config);
        return;
      }
      if (!needsUpdate(current, config)) {
        if (Object.keys(current.reindex_active ?? {}).length > 0) await reindex(caller, name, onReindexed);
        return;
      }
      await write(caller, 'updateBucket', name, config);
      // A bucket without a version is not reindexed, and cannot be told from what was asked for.
      if (config.options?.version === undefined) return;
    } catch (error) {
      if (!isRace(error)) throw error;
      conflict = error;
    }
  }
  throw conflict ?? new CongerError('BucketConflictError', `${name} was likely being concurrently updated`);
}

type Bucket = z.output<typeof bucketSchema>;

async function getBucket(caller: Caller, name: string): Promise<Bucket | undefined> {
  try {
    const values = await caller.call({ rpc: 'getBucket', args: (options) => [options, name] });
    const parsed = bucketSchema.safeParse(values[0]);
    if (parsed.success) return parsed.data;
    throw new CongerError('InternalError', `kvstore's answer to getBucket is not what was expected`, {
      cause: parsed.error,
    });
  } catch (error) {
    if (isCongerError(error, 'BucketNotFoundError')) return undefined;
    throw error;
  }
}

async function write(
  caller: Caller,
  rpc: 'createBucket' | 'updateBucket',
  name: string,
  config: BucketConfig,
): Promise<void> {
  const { index, pre = [], post = [], options: own = {} } = config;
  const wire = { index, pre, post, options: own };
  await caller.call({ rpc, args: (options) => [name, wire, options] });
}

async function reindex(caller: Caller, name: string, onReindexed: OnReindexed): Promise<void> {
  for (let sum = 0; ; ) {
    const values = await caller.call({
      rpc: 'reindexObjects',
      args: (options) => [name, reindexChunk, options],
    });
    const { processed, remaining } = reindexSchema.parse(values[0]);
    if (processed === 0) return;
    sum += processed;
    onReindexed({ bucket: name, processed: sum, remaining });
  }
}

function needsUpdate(current: Bucket, config: BucketConfig): boolean {
  const { version: have = 0, partition, feed = true } = current.options;
  const want = config.options ?? {};
  if (have !== (want.version ?? 0)) return have < (want.version ?? 0);
  if (have !== 0) return false;
  return (
    !isDeepStrictEqual(current.index, config.index) ||
    !isDeepStrictEqual([current.pre, current.post], [config.pre ?? [], config.post ?? []]) ||
    partition !== want.partition ||
    feed !== (want.feed ?? true)
  );
}

const races = ['BucketVersionError', 'BucketNotFoundError', 'BucketConflictError'];

/** The bucket was made, changed or removed by another process between two calls. */
function isRace(error: unknown): boolean {
  return isCongerError(error) && (races.includes(error.code) || races.includes(String(error.context.name)));
}
