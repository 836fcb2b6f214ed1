import type pg from 'pg';
import { CongerError } from '../../runtime/errors.ts';
import type { HookChains, HookDatabase, HookRequest, NamedHook } from '../hooks/hook.ts';
import { HookFailed, runHooks } from '../hooks/run.ts';
import type { BatchRequest, CallOptions } from './arguments.ts';
import { encodeRequest, operationOf, optionsOf } from './batch-plan.ts';
import { type Bucket, idOf } from './bucket.ts';
import { isConnectionLoss } from './database.ts';
import { isRace } from './retry.ts';
import type { Store } from './store.ts';
import type { Write } from './write.ts';

/** An object to be written. */
export interface Put {
  readonly key: string;
  readonly value: Readonly<Record<string, unknown>>;
}

/** The transaction's connection, lent to the hooks of one write and taken back when they are done. */
class LentDatabase implements HookDatabase {
  readonly #client: pg.PoolClient;
  readonly #pending = new Set<Promise<unknown>>();
  readonly #errors = new Set<unknown>();
  #over = false;

  constructor(client: pg.PoolClient) {
    this.#client = client;
  }

  async query(
    text: string,
    values: readonly unknown[] = [],
  ): Promise<readonly Readonly<Record<string, unknown>>[]> {
    if (this.#over) throw new Error('the hook’s time is over');
    const query = this.#client.query<Record<string, unknown>>(text, [...values]);
    this.#pending.add(query);
    try {
      return (await query).rows ?? [];
    } catch (error) {
      this.#errors.add(error);
      throw error;
    } finally {
      this.#pending.delete(query);
    }
  }

  /** Whether the error is PostgreSQL's, or its connection's, and not of something else that a hook talks to. */
  gave(error: unknown): boolean {
    return this.#errors.has(error);
  }

  /** Resolves once no query is under way that a hook did not wait for. */
  async takeBack(): Promise<void> {
    this.#over = true;
    await Promise.allSettled(this.#pending);
  }
}

/** What hooks are told of any write. */
export function requestOf(
  store: Store,
  bucket: Bucket,
  key: string,
  value: Readonly<Record<string, unknown>> | undefined,
  options: CallOptions,
): Omit<HookRequest, 'pg' | 'update'> {
  const columns = bucket.columns.filter((c) => !c.pending);
  const index = columns.map((c) => [c.field, { type: c.type, ...(c.unique ? { unique: true } : {}) }]);
  return {
    bucket: bucket.name,
    key,
    value: structuredClone(value),
    schema: Object.fromEntries(index),
    headers: options.headers ?? {},
    log: store.log,
  };
}

/**
 * What pre hooks have left to be written: as it will be read, so that indexes say the same as the value.
 * @throws InvocationError where that is no object, or has no key
 */
export function leftToWrite({ bucket, key, value }: HookRequest): Put {
  const left: unknown = JSON.parse(JSON.stringify(value) ?? 'null');
  if (
    typeof left === 'object' &&
    left !== null &&
    !Array.isArray(left) &&
    typeof key === 'string' &&
    key !== ''
  ) {
    return { key, value: left as Put['value'] };
  }
  throw new CongerError('InvocationError', `a pre hook of ${bucket} has left no key, or no object to write`);
}

export interface HookedWrite {
  readonly request: BatchRequest;
  /** The options of the whole batch. */
  readonly batch: CallOptions;
  /** Writes, or throws. */
  readonly execute: (writes: readonly Write[]) => Promise<void>;
}

/**
 * Makes one put or delete of a bucket with hooks inside the caller's transaction, as Moray does: the object is locked,
 * pre hooks run (before a put only), it is written, post hooks run.
 * @throws UnknownHookError, HookFailed, HookTimeoutError, and what a write without hooks throws
 */
export async function writeWithHooks(
  store: Store,
  client: pg.PoolClient,
  bucket: Bucket,
  { request, batch, execute }: HookedWrite,
): Promise<Write> {
  const chains: HookChains = bucket.hooks
    ? store.hooks.chainsOf(bucket.name, bucket.hooks)
    : { pre: [], post: [] };
  const put = operationOf(request) === 'put';
  // A request's own headers go before those of the batch, unlike its other options; as in Moray.
  const options = { ...optionsOf(request, batch), headers: request.options?.headers ?? batch.headers };
  const key = request.key ?? '';
  const id = await lockedId(client, bucket, key);

  let left = request;
  const told: HookRequest = {
    ...requestOf(store, bucket, key, put ? request.value : undefined, options),
    update: put && id !== undefined,
    pg: { query: notLent },
  };
  if (put && chains.pre.length > 0) {
    const req = { ...told };
    await run(client, chains.pre, req);
    left = { ...request, ...leftToWrite(req) };
  }

  const write = encodeRequest(bucket, left, batch);
  await execute([write]);

  if (chains.post.length > 0) {
    const value = put ? structuredClone(left.value) : undefined;
    const written = id ?? (await lockedId(client, bucket, write.key)) ?? -1;
    await run(client, chains.post, { ...told, key: write.key, value, id: written, etag: write.etag });
  }
  return write;
}

function notLent(): Promise<never> {
  return Promise.reject(new Error('there is no transaction'));
}

/** Runs hooks with the connection. What PostgreSQL says of the transaction as a whole is not the hook's error. */
async function run(client: pg.PoolClient, hooks: readonly NamedHook[], request: HookRequest): Promise<void> {
  const database = new LentDatabase(client);
  try {
    await runHooks(hooks, Object.assign(request, { pg: database }));
  } catch (error) {
    const cause = error instanceof HookFailed ? error.cause : undefined;
    throw database.gave(cause) && (isRace(cause) || isConnectionLoss(cause)) ? cause : error;
  } finally {
    await database.takeBack();
  }
}

async function lockedId(client: pg.PoolClient, bucket: Bucket, key: string): Promise<number | undefined> {
  const { rows } = await client.query<{ _id: string }>(
    `SELECT ${idOf(bucket)} AS _id FROM ${bucket.table} WHERE _key = $1 FOR UPDATE`,
    [key],
  );
  return rows[0] === undefined ? undefined : Number(rows[0]._id);
}
