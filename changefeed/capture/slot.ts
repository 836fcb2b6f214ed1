import type pg from 'pg';
import type { Logger } from '../../runtime/log.ts';
import { lsnToBigint, type PositionParts, parsePosition } from '../position.ts';
import { SCHEMA_LOCK } from '../seat.ts';
import type { Position } from '../types.ts';
import { currentTimeline, type HistoryOf, leftAt } from './timeline.ts';

const FAILOVER_SLOTS_SINCE = 170_000;
/** How long who holds the lock on the schema may say nothing, before PostgreSQL ends its session. */
const SILENT_MS = 10_000;
/** How long a walsender that is told to end may take, */
const TERMINATION_MS = 5_000;
/** and how often it is told. */
const TERMINATION_STEP_MS = 200;

/**
 * Makes what the capture reads through, where it is missing: publication, slot, and the epoch that positions begin
 * with. A slot that had to be made anew has missed changes, and positions say so: they get a new epoch.
 * Answers the epoch. Several processes may call this at the same time. Making a slot waits for the transactions that are
 * in progress.
 * @throws Error where the slot is another database's
 */
export async function ensureSlot(client: pg.Client, slot: string, log: Logger): Promise<number> {
  // A process that is stopped here, or cut off, would keep the lock for good, and who waits for it stops vacuum.
  await client.query(`SET idle_session_timeout = ${SILENT_MS}`);
  await client.query(`SELECT pg_advisory_lock(${SCHEMA_LOCK})`);
  try {
    await ensureTable(client);
    await ensurePublication(client, slot);
    const found = await client.query<{ lost: boolean; database: string; ours: boolean }>(
      `SELECT wal_status = 'lost' OR invalidation_reason IS NOT NULL AS lost,
              database, database IS NOT DISTINCT FROM current_database() AS ours
         FROM pg_replication_slots WHERE slot_name = $1`,
      [slot],
    );
    const [other] = found.rows.filter(({ ours }) => !ours);
    if (other !== undefined) {
      throw new Error(
        `the slot ${slot} is of the database ${other.database}: CONGER_CAPTURE_SLOT names another`,
      );
    }
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
    await client.query('RESET idle_session_timeout');
  }
}

/**
 * The epoch to go on with, given the last position of each partition. Where these are not of this PostgreSQL (it was
 * restored, replaced, or promoted without them) they would come again for other changes, or hide that some are missing,
 * so a new epoch begins. To be called before anything is appended.
 */
export async function epochAfter(
  client: pg.Client,
  slot: string,
  epoch: number,
  tails: readonly Position[],
  historyOf: HistoryOf,
  log: Logger,
): Promise<number> {
  const last = [...tails].sort().at(-1) ?? '';
  const timeline = await currentTimeline(client);
  const why =
    last === '' ? undefined : await strange(client, slot, epoch, parsePosition(last), timeline, historyOf);
  const next = why === undefined ? epoch : await nextEpoch(client, slot, parsePosition(last).epoch + 1);
  if (why !== undefined) log.error({ slot, epoch: next, tail: last }, `${why}: a new epoch begins`);
  await client.query(
    `UPDATE conger_capture SET begun = true, timeline = $3
      WHERE slot = $1 AND epoch = $2 AND (NOT begun OR timeline IS DISTINCT FROM $3)`,
    [slot, next, timeline],
  );
  return next;
}

/** Why the log's last position cannot be one that was captured here, in words; undefined where it can. */
async function strange(
  client: pg.Client,
  slot: string,
  epoch: number,
  tail: PositionParts,
  timeline: number,
  historyOf: HistoryOf,
): Promise<string | undefined> {
  if (tail.epoch < epoch) return undefined;
  const { rows } = await client.query<{ lsn: string; begun: boolean | null; timeline: number | null }>(
    `SELECT pg_current_wal_lsn()::text AS lsn, c.begun, c.timeline
       FROM (VALUES ($1)) AS s(slot) LEFT JOIN conger_capture c ON c.slot = s.slot`,
    [slot],
  );
  const [row] = rows;
  if (row === undefined) throw new Error('PostgreSQL answered no LSN');
  if (tail.epoch > epoch || tail.lsn > lsnToBigint(row.lsn)) return 'the log is ahead of PostgreSQL';
  if (row.begun !== true) return 'the log has changes of another PostgreSQL';
  if (row.timeline === null || row.timeline === timeline) return undefined;
  const left = leftAt(row.timeline, await historyOf(timeline));
  return left === undefined || tail.lsn >= left
    ? 'the log has changes that the new primary does not have'
    : undefined;
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

/**
 * Ends a walsender that still holds the slot. Only for the owner of the slot's seat: no one else may be reading.
 * Told once, a walsender first tells its client; where that has stopped reading it waits for ever. Told again, it ends.
 */
export async function freeSlot(client: pg.Client, slot: string, log: Logger): Promise<void> {
  const until = performance.now() + TERMINATION_MS;
  for (let left = true; left && performance.now() < until; ) {
    const { rows } = await client.query<{ pid: number; ended: boolean }>(
      `SELECT active_pid AS pid, pg_terminate_backend(active_pid, ${TERMINATION_STEP_MS}) AS ended
         FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL`,
      [slot],
    );
    left = rows.some(({ ended }) => !ended);
    for (const { pid, ended } of rows) if (ended) log.warn({ slot, pid }, 'ended an orphaned walsender');
  }
}

/**
 * Of each slot its epoch; whether anything may have been appended in it (`begun`); and the timeline that it was captured
 * from last. A table of 0.1.0 has the epoch alone.
 */
async function ensureTable(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ name: string }>(
    `SELECT attname AS name FROM pg_attribute WHERE attrelid = to_regclass('conger_capture') AND attnum > 0`,
  );
  if (rows.some(({ name }) => name === 'timeline')) return;
  await client.query(
    'CREATE TABLE IF NOT EXISTS conger_capture (slot text PRIMARY KEY, epoch bigint NOT NULL)',
  );
  await client.query(
    'ALTER TABLE conger_capture ADD begun boolean NOT NULL DEFAULT true, ADD timeline integer',
  );
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
    `INSERT INTO conger_capture AS c (slot, epoch, begun) VALUES ($1, $2, false)
       ON CONFLICT (slot) DO UPDATE SET epoch = greatest(c.epoch + 1, excluded.epoch), begun = false
       RETURNING epoch`,
    [slot, least],
  );
  return Number(rows[0]?.epoch);
}
