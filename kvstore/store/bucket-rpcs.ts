import type pg from 'pg';
import { CongerError, isCongerError } from '../../runtime/errors.ts';
import type { Hooks } from '../hooks/hooks.ts';
import type { RpcTable } from '../rpc.ts';
import { bucketConfig, describeIssues, parseArguments } from './arguments.ts';
import { checkBucket, type RegistryRow, type ValidConfig } from './bucket.ts';
import { createBucket, deleteBucket, updateBucket } from './bucket-ddl.ts';
import { reading, stateOf, transaction } from './database.ts';
import { bucketConflict, bucketNotFound, invalidBucketName } from './errors.ts';
import { isReservedBucket, registryTable } from './identifiers.ts';
import { readRegistry } from './registry.ts';
import { isRace } from './retry.ts';
import { queryError, uniqueError } from './sql-errors.ts';
import type { Store } from './store.ts';

/** @throws NotFunctionError, InvalidBucketNameError, InvalidBucketConfigError */
function validConfig(hooks: Hooks, name: string, given: unknown): ValidConfig {
  const parsed = bucketConfig.safeParse(given);
  if (!parsed.success) {
    throw new CongerError('InvalidBucketConfigError', describeIssues(parsed.error, 'bucket', given));
  }
  const { index, options, pre, post } = parsed.data;
  if ('trackModification' in options) {
    throw new CongerError('InvalidBucketConfigError', '"trackModification" is no longer supported');
  }
  const config = { index: index as ValidConfig['index'], hooks: hooks.check({ pre, post }), options };
  checkBucket(name, config);
  return config;
}

/** A bucket as clients expect it: the registry's row, its JSON still as text. */
function answerOf({ name, index, pre, post, options, mtime, reindex_active }: RegistryRow): object {
  return { name, index, pre, post, options, mtime: mtime.toISOString(), reindex_active };
}

/** createBucket, updateBucket, getBucket, listBuckets, delBucket. */
export function bucketRpcs(store: Store): RpcTable {
  const { database, registry, hooks } = store;

  async function changing(name: string, work: (client: pg.PoolClient) => Promise<void>): Promise<void> {
    try {
      await transaction(database.readers, work);
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

    async updateBucket({ args }) {
      const [name, given, options] = parseArguments('updateBucket', args, [
        ['name', 'string'],
        ['config', 'object'],
        ['options', 'options'],
      ]);
      const config = validConfig(hooks, name, given);
      await changing(name, (client) => updateBucket(client, name, config, options.no_reindex === true));
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
        const result = await client.query<RegistryRow>(`SELECT * FROM ${registryTable} ORDER BY name`);
        return result.rows;
      });
      for (const row of rows) await send([answerOf(row)]);
    },
  };
}
