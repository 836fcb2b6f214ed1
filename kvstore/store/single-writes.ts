import type { HookRequest } from '../hooks/hook.ts';
import type { HookSources } from '../hooks/hooks.ts';
import { runHooks } from '../hooks/run.ts';
import type { CallOptions } from './arguments.ts';
import { Batch } from './batch.ts';
import type { Bucket } from './bucket.ts';
import { reading } from './database.ts';
import { leftToWrite, type Put, requestOf } from './hooked-write.ts';
import { givenUp, maxAttempts, StaleBucket } from './retry.ts';
import { type ObjectRow, objectColumns, objectOf } from './rows.ts';
import { deleteCheck, originOf, putCheck, type Store } from './store.ts';
import { encodeDelete, encodePut, type Write } from './write.ts';

/**
 * Puts and deletes of single objects. They go through group commit, unless something of theirs needs a transaction of
 * their own: then they are a batch of one.
 */

type Value = Readonly<Record<string, unknown>>;

/** Buckets whose pre hooks have asked for what only a transaction has. */
const transactional = new WeakSet<HookSources>();

/** Submits to group commit what was made ready for `bucket`, as long as the bucket's hooks are those of then. */
function submit(
  store: Store,
  source: object,
  bucket: Bucket,
  encode: (bucket: Bucket) => Write,
): Promise<Write> {
  return store.group.submit(source, bucket, (current) => {
    if (current.hooks !== bucket.hooks) throw new StaleBucket(bucket);
    return encode(current);
  });
}

/** Makes a write anew where the bucket has got other hooks meanwhile. */
async function again<T>(write: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await write();
    } catch (error) {
      if (!(error instanceof StaleBucket) || attempt >= maxAttempts) throw givenUp(error);
    }
  }
}

/** Runs the pre hooks of a put. Undefined: one of them asks for what only a transaction has. */
async function prepare(
  store: Store,
  bucket: Bucket,
  hooks: HookSources,
  { key, value }: Put,
  options: CallOptions,
): Promise<Put | undefined> {
  const { pre, post } = store.hooks.chainsOf(bucket.name, hooks);
  if (post.length > 0 || transactional.has(hooks)) return undefined;
  let asked = false;
  const ask = () => {
    asked = true;
    transactional.add(hooks);
    return new Error('this needs a transaction, and the hook is run again in one');
  };
  const request: HookRequest = {
    ...requestOf(store, bucket, key, value, options),
    get update(): boolean {
      throw ask();
    },
    get pg(): HookRequest['pg'] {
      throw ask();
    },
  };
  try {
    await runHooks(pre, request);
  } catch (error) {
    if (!asked) throw error;
  }
  return asked ? undefined : leftToWrite(request);
}

/**
 * Answers the etag that was written.
 * @param source whose write it is; sources take turns
 */
export function putOne(
  store: Store,
  source: object,
  name: string,
  key: string,
  value: Value,
  options: CallOptions,
): Promise<string | null | undefined> {
  const check = putCheck(options.etag);
  const origin = originOf(options);
  return again(async () => {
    const bucket = await store.registry.get(name);
    let ready: Put | undefined = options.timeout ? undefined : { key, value };
    if (bucket.hooks && ready) ready = await prepare(store, bucket, bucket.hooks, ready, options);
    if (ready === undefined) {
      const [result] = await new Batch(store, [{ bucket: name, key, value }], options).run();
      return result?.etag;
    }
    const put = ready;
    const write = await submit(store, source, bucket, (b) => encodePut(b, put.key, put.value, check, origin));
    return write.etag;
  });
}

/** As in Moray, which reads what it deletes: an object of an invalid id is damaged, and is to be looked into first. */
async function checkReadable(store: Store, bucket: Bucket, key: string): Promise<void> {
  const { rows } = await reading(store.database.readers, (client) =>
    client.query<ObjectRow>({
      text: `SELECT ${objectColumns(bucket)} FROM ${bucket.table} WHERE _key = $1`,
      values: [key],
      rowMode: 'array',
    }),
  );
  if (rows[0] !== undefined) objectOf(bucket.name, rows[0], null);
}

export function deleteOne(
  store: Store,
  source: object,
  name: string,
  key: string,
  options: CallOptions,
): Promise<void> {
  const etag = options.etag || options._etag;
  const origin = originOf(options);
  return again(async () => {
    const bucket = await store.registry.get(name);
    if (bucket.extendedId) await checkReadable(store, bucket, key);
    const chains = bucket.hooks && store.hooks.chainsOf(name, bucket.hooks);
    if (options.timeout || chains?.post.length) {
      const request = { operation: 'delete' as const, bucket: name, key, options: etag ? { etag } : {} };
      await new Batch(store, [request], options).run();
    } else {
      await submit(store, source, bucket, (b) => encodeDelete(b, key, deleteCheck(etag), origin));
    }
  });
}
