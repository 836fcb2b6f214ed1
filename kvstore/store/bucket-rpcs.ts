import type pg from 'pg';
import { CongerError, isCongerError } from '../../runtime/errors.ts';
import type { Hooks } from '../hooks/hooks.ts';
import type { RpcTable } from '../rpc.ts';
import { bucketConfig, describeIssues, parseArguments } from './arguments.ts';
import {
  type BucketChange,
  changeOf,
  checkBucket,
  type RegistryRow,
  registrySelect,
  type ValidConfig,
} from './bucket.ts';
import { beginChange, outcomeOf } from './bucket-change.ts';
import { createBucket, deleteBucket } from './bucket-ddl.ts';
import { reading, stateOf } from './database.ts';
import { bucketConflict, bucketNotFound, invalidBucketName } from './errors.ts';
import { isReservedBucket } from './identifiers.ts';
import { readRegistry } from './registry.ts';
import { isRace } from './retry.ts';
import { queryError, uniqueError } from './sql-errors.ts';
import type { Store } from './store.ts';
import { retryingLocks } from './table-lock.ts';

/** @throws NotFunctionError, InvalidBucketNameError, InvalidBucketConfigError */
function validConfig(hooks: Hooks, name: string, given: unknown): ValidConfig {
  const parsed = bucketConfig.safeParse(given);
  if (!parsed.success) {
    throw new CongerError('InvalidBucketConfigError', describeIssues(parsed.error, 'bucket', given));
  }
  const { index, options, pre, post } = parsed.data;
  // zod leaves out a property of this name.
  if (Object.hasOwn(Object(Reflect.get(Object(given), 'index')), '__proto__')) {
    throw new CongerError('InvalidBucketConfigError', 'invalid index name "__proto__"');
  }
  if ('trackModification' in options) {
    throw new CongerError('InvalidBucketConfigError', '"trackModification" is no longer supported');
  }
  const config = { index: index as ValidConfig['index'], hooks: hooks.check({ pre, post }), options };
  checkBucket(name, config);
  return config;
}

/** How long locks are tried for before a call ends with BucketConflictError. */
const lockPatienceMs = 60_000;

/** A bucket as clients expect it: the registry's row, its JSON still as text. */
function answerOf({ name, index, pre, post, options, mtime, reindex_active }: RegistryRow): object {
  return { name, index, pre, post, options, mtime: mtime.toISOString(), reindex_active };
}

/** createBucket, updateBucket, getBucket, listBuckets, delBucket. */
export function bucketRpcs(store: Store): RpcTable {
  const { database, registry, hooks, bell } = store;

  async function changing<T>(name: string, work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
    let result: T;
    try {
      result = await retryingLocks(database.readers, work, lockPatienceMs);
    } catch (error) {
      // 55P03: a lock was not to be had in time; the others: two servers did the same at the same time.
      const state = stateOf(error) ?? '';
      if (isRace(error) || ['55P03', '42P07', '42P01', '23505'].includes(state)) {
        throw uniqueError(error) ?? bucketConflict(name, error);
      }
      throw queryError(error);
    }
    // The one we know is out of date now; a failure to read the new one is for the next call to meet.
    await registry.load(name).catch((error: unknown) => {
      if (!isCongerError(error)) throw error;
    });
    return result;
  }

  /** Waits until the change has ended, by whichever server; answers its error. */
  async function ended(
    name: string,
    change: BucketChange,
    signal: AbortSignal,
  ): Promise<CongerError | undefined> {
    for (;;) {
      const rung = bell.next(signal);
      const row = await readRegistry(database.readers, name);
      if (row === undefined) throw bucketNotFound(name);
      if (changeOf(row)?.id !== change.id) return outcomeOf(row, change.id);
      await rung;
      if (bell.closed || signal.aborted) {
        throw new CongerError(
          'OverloadedError',
          `the server is shutting down; another goes on to change ${name}`,
        );
      }
    }
  }

  async function update(
    name: string,
    config: ValidConfig,
    noReindex: boolean,
    signal: AbortSignal,
  ): Promise<void> {
    for (;;) {
      const begun = await changing(name, (client) => beginChange(client, name, config, noReindex));
      if (begun.kind === 'done') return;
      const failure = await ended(name, begun.change, signal);
      if (begun.kind === 'busy' && !begun.same) continue;
      if (failure !== undefined) throw failure;
      return;
    }
  }

  return {
    async createBucket({ args }) {
      const [name, given] = parseArguments('createBucket', args, [
        ['bucket', 'string'],
        ['config', 'object'],
        ['options', 'options'],
      ]);
      const config = validConfig(hooks, name, given);
      await changing(name, (client) => createBucket(client, name, config));
    },

    async updateBucket({ args, signal }) {
      const [name, given, options] = parseArguments('updateBucket', args, [
        ['name', 'string'],
        ['config', 'object'],
        ['options', 'options'],
      ]);
      const config = validConfig(hooks, name, given);
      await update(name, config, options.no_reindex === true, signal);
    },

    async delBucket({ args }) {
      const [name] = parseArguments('delBucket', args, [
        ['bucket', 'string'],
        ['options', 'options'],
      ]);
      if (isReservedBucket(name)) throw invalidBucketName(name);
      await changing(name, (client) => deleteBucket(client, name));
    },

    async getBucket({ args, send }) {
      const [, name] = parseArguments('getBucket', args, [
        ['options', 'options'],
        ['bucket', 'string'],
      ]);
      const row = await readRegistry(database.readers, name);
      if (row === undefined) throw bucketNotFound(name);
      await send([answerOf(row)]);
    },

    async listBuckets({ args, send }) {
      parseArguments('listBuckets', args, [['options', 'options']]);
      const rows = await reading(database.readers, async (client) => {
        const result = await client.query<RegistryRow>(`${registrySelect} ORDER BY r.name`);
        return result.rows;
      });
      for (const row of rows) await send([answerOf(row)]);
    },
  };
}
