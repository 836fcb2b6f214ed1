import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { type RegistryRow, registrySelect } from './bucket.ts';
import type { Connections } from './connections.ts';
import { stateOf, transaction } from './database.ts';
import { bucketNotFound } from './errors.ts';
import { registryTable, tableOf } from './identifiers.ts';
import { isRace } from './retry.ts';

/**
 * How a bucket's table is locked without stopping those who write to it. Whoever waits for ACCESS EXCLUSIVE makes all
 * who come later wait behind it, readers too; so it is waited for no longer than this, then everything is let go, and
 * is tried again after a pause that is longer.
 */
const shortWaitMs = 50;
const firstPauseMs = 100;
const longestPauseMs = 2_000;
/** For locks that nobody who reads or writes waits behind. */
const patientWaitMs = 5_000;

const lockNotAvailable = '55P03';

/**
 * Runs `work` in a transaction, again for as long as one of its locks is not to be had in time.
 * @param forMs after this time the next such error is the caller's (PostgreSQL's 55P03)
 */
export async function retryingLocks<T>(
  connections: Connections,
  work: (client: pg.PoolClient) => Promise<T>,
  forMs: number,
  signal?: AbortSignal,
): Promise<T> {
  const until = performance.now() + forMs;
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
    try {
      return await transaction(connections, async (client) => {
        await client.query(`SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = ${patientWaitMs}`);
        return work(client);
      });
    } catch (error) {
      if (stateOf(error) !== lockNotAvailable && !isRace(error)) throw error;
      if (performance.now() > until || signal?.aborted) throw error;
    }
    await delay(pauseMs * (1 + Math.random()), undefined, { ...(signal && { signal }) }).catch(
      () => undefined,
    );
  }
}

/**
 * Locks the bucket against other changes of it, and answers it as it then is.
 * @throws BucketNotFoundError
 */
export async function lockRegistry(client: pg.PoolClient, name: string): Promise<RegistryRow> {
  // Read by a second statement: what the first one joined after a wait would be older than the row it waited for.
  await client.query(`SELECT FROM ${registryTable} WHERE name = $1 FOR NO KEY UPDATE`, [name]);
  const { rows } = await client.query<RegistryRow>(`${registrySelect} WHERE r.name = $1`, [name]);
  if (rows[0] === undefined) throw bucketNotFound(name);
  return rows[0];
}

/**
 * Locks the bucket's table against everybody. The lock that is taken first is in nobody's way but vacuum's (which
 * PostgreSQL then sends away, as it does not for those who wait for 50 ms only) and that of an index being built.
 */
export async function lockTable(client: pg.PoolClient, name: string): Promise<void> {
  await client.query(`
    LOCK TABLE ${tableOf(name)} IN SHARE UPDATE EXCLUSIVE MODE;
    SET LOCAL lock_timeout = ${shortWaitMs};
    LOCK TABLE ${tableOf(name)} IN ACCESS EXCLUSIVE MODE`);
}
