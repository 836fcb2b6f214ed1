import type pg from 'pg';
import type { Logger } from '../../runtime/log.ts';
import { lsnToBigint, parsePosition } from '../position.ts';
import { SCHEMA_LOCK } from '../seat.ts';
import type { Position } from '../types.ts';

const FAILOVER_SLOTS_SINCE = 170_000;
/** How long a walsender that was told to end may take. */
const TERMINATION_MS = 5_000;

/**
 * Makes what the capture reads through, where it is missing: publication, slot, and the epoch that positions begin
 * with. A slot that had to be made anew has missed changes, and positions say so: they get a new epoch.
 * Answers the epoch. Several processes may call this at the same time.
 */
export async function ensureSlot(client: pg.Client, slot: string, log: Logger): Promise<number> {
  await client.query(`SELECT pg_advisory_lock(${SCHEMA_LOCK})`);
  try {
    await client.query(
      'CREATE TABLE IF NOT EXISTS conger_capture (slot text PRIMARY KEY, epoch bigint NOT NULL)',
    );
    await ensurePublication(client, slot);
    const found = await client.query<{ lost: boolean }>(
      `SELECT wal_status = 'lost' OR invalidation_reason IS NOT NULL AS lost
         FROM pg_replication_slots WHERE slot_name = $1`,
      [slot],
    );
    const lost = found.rows[0]?.lost === true;
    if (found.rows.length > 0 && !lost) return await currentEpoch(client, slot);
    // First the epoch: dying in between costs a number, the other way round it would hide the gap.
    const epoch = await nextEpoch(client, slot, 1);
    if (lost) await client.query('SELECT pg_drop_replication_slot($1)', [slot]);
    await createSlot(client, slot);
    log[epoch === 1 ? 'info' : 'warn']({ slot, epoch }, 'replication slot created: a new epoch begins');
    return epoch;
  } finally {
    await client.query(`SELECT pg_advisory_unlock(${SCHEMA_LOCK})`);
  }
}

/**
 * The epoch to go on with, given the last position of each partition. Where the log is ahead of this PostgreSQL (it
 * was restored, or replaced) its positions would come again for other changes, so a new epoch begins.
 */
export async function epochAfter(
  client: pg.Client,
  slot: string,
  epoch: number,
  tails: readonly Position[],
  log: Logger,
): Promise<number> {
  const last = [...tails].sort().at(-1) ?? '';
  if (last === '') return epoch;
  const tail = parsePosition(last);
  if (tail.epoch < epoch) return epoch;
  if (tail.epoch === epoch) {
    const { rows } = await client.query<{ lsn: string }>('SELECT pg_current_wal_lsn()::text AS lsn');
    const now = rows[0]?.lsn;
    if (now !== undefined && tail.lsn <= lsnToBigint(now)) return epoch;
  }
  const next = await nextEpoch(client, slot, tail.epoch + 1);
  log.error({ slot, epoch: next, tail: last }, 'the log is ahead of PostgreSQL: a new epoch begins');
  return next;
}

/**
 * To be asked once the slot is read, before anything is appended or confirmed: whether it still is the slot of this
 * epoch. Until then any process that starts, or was paused, may have made a lost slot anew.
 * @throws Error where it is not
 */
export async function checkEpoch(client: pg.Client, slot: string, epoch: number): Promise<void> {
  const now = await currentEpoch(client, slot);
  if (now !== epoch) throw new Error(`the slot was made anew meanwhile: epoch ${now} instead of ${epoch}`);
}

/** Ends a walsender that still holds the slot. Only for the owner of the slot's seat: no one else may be reading. */
export async function freeSlot(client: pg.Client, slot: string, log: Logger): Promise<void> {
  const { rows } = await client.query<{ pid: number; ended: boolean }>(
    `SELECT active_pid AS pid, pg_terminate_backend(active_pid, ${TERMINATION_MS}) AS ended
       FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL`,
    [slot],
  );
  for (const { pid, ended } of rows) log.warn({ slot, pid, ended }, 'ended an orphaned walsender');
}

async function ensurePublication(client: pg.Client, name: string): Promise<void> {
  const found = await client.query('SELECT 1 FROM pg_publication WHERE pubname = $1', [name]);
  if (found.rows.length === 0) await client.query(`CREATE PUBLICATION "${name}"`);
}

async function createSlot(client: pg.Client, slot: string): Promise<void> {
  const { rows } = await client.query<{ version: number }>(
    "SELECT current_setting('server_version_num')::int AS version",
  );
  const failover = (rows[0]?.version ?? 0) >= FAILOVER_SLOTS_SINCE ? ', failover => true' : '';
  await client.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput'${failover})`, [slot]);
}

async function currentEpoch(client: pg.Client, slot: string): Promise<number> {
  const { rows } = await client.query<{ epoch: string }>('SELECT epoch FROM conger_capture WHERE slot = $1', [
    slot,
  ]);
  const epoch = rows[0]?.epoch;
  return epoch === undefined ? await nextEpoch(client, slot, 1) : Number(epoch);
}

async function nextEpoch(client: pg.Client, slot: string, least: number): Promise<number> {
  const { rows } = await client.query<{ epoch: string }>(
    `INSERT INTO conger_capture AS c (slot, epoch) VALUES ($1, $2)
       ON CONFLICT (slot) DO UPDATE SET epoch = greatest(c.epoch + 1, excluded.epoch)
       RETURNING epoch`,
    [slot, least],
  );
  return Number(rows[0]?.epoch);
}
