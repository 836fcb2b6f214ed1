import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { counter } from '../../runtime/metrics.ts';
import { onPrimaryAlone } from '../position.ts';
import type { CallOptions } from './arguments.ts';
import { unreachable } from './connections.ts';
import { type Database, isConnectionLoss, reading, stateOf, withClient } from './database.ts';
import { isRace } from './retry.ts';

/** How long a read waits for the standby to have its position, at most; after that the primary answers it. */
const waitMs = 1_000;
const longestPauseMs = 20;

const fallbacks = counter(
  'conger_kvstore_standby_fallbacks_total',
  'Reads for a standby that the primary answered instead',
);

/** Thrown inside a read whose standby does not have the position in time, or does not follow the primary. */
class NotThere extends Error {}

/** Resolves once the standby has replayed up to `position`. PostgreSQL 18 has no statement that waits for it. */
async function replayed(
  client: pg.PoolClient,
  position: string,
  timeline: number | undefined,
  ms: number,
): Promise<void> {
  const until = performance.now() + ms;
  for (let pause = 1; ; pause = Math.min(pause * 2, longestPauseMs)) {
    const { rows } = await client.query<{ there: boolean; timeline: number | null }>({
      name: 'replayed',
      text: `SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn AS there,
        (SELECT received_tli FROM pg_stat_wal_receiver) AS timeline`,
      values: [position],
    });
    // What it got from a primary that was replaced may be what no primary has.
    if (rows[0]?.timeline !== timeline) throw new NotThere('the standby does not follow the primary');
    if (rows[0]?.there) return;
    if (performance.now() + pause > until)
      throw new NotThere('the standby does not have the position in time');
    await delay(pause);
  }
}

/**
 * A read for a standby that has at least `minPosition`. What none can answer is read `atPrimary`.
 * @param begun whether something of the answer has been sent: it cannot be made again then
 * @throws NoDatabasePeersError
 */
export async function readingAtStandby<T>(
  { standbys, finder }: Database,
  { minPosition: position, timeout }: CallOptions,
  work: (client: pg.PoolClient) => Promise<T>,
  atPrimary: () => Promise<T>,
  begun: () => boolean = () => false,
): Promise<T> {
  if (position === onPrimaryAlone) return atPrimary();
  try {
    return await withClient(standbys, async (client) => {
      if (position !== undefined) {
        await replayed(client, position, finder.current?.timeline, Math.min(timeout || waitMs, waitMs));
      }
      return work(client);
    });
  } catch (error) {
    if (stateOf(error) === '57014') throw error;
    // Nor does who asks make it again where it was cancelled for what the standby had to replay: a race, by its state.
    if (begun()) throw isConnectionLoss(error) || isRace(error) ? unreachable(error) : error;
    // Whatever it is (no standby, a bucket that is not there yet, rows that vacuum took), the primary knows better.
    fallbacks.inc();
    return atPrimary();
  }
}

/** A position at or behind the commit of every write that was acknowledged before the call. */
async function positionNow(database: Database): Promise<string> {
  try {
    return await reading(
      database.readers,
      async (client) => {
        // What was acknowledged was flushed; the insert position can be that of a record that nobody has yet.
        const { rows } = await client.query<{ lsn: string }>({
          name: 'position',
          text: 'SELECT pg_current_wal_flush_lsn()::text AS lsn',
        });
        return rows[0]?.lsn ?? onPrimaryAlone;
      },
      () => false,
    );
  } catch {
    // The write has happened, and must not be answered with an error.
    return onPrimaryAlone;
  }
}

/** A write's answer, with its position where the call asks for it. */
export async function withPosition<T extends object>(
  database: Database,
  options: CallOptions,
  answer: T,
): Promise<T & { readonly position?: string }> {
  return options.position ? { ...answer, position: await positionNow(database) } : answer;
}
