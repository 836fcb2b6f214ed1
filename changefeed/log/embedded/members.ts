import type pg from 'pg';
import { GROUP_CHANNEL } from './schema.ts';

/** One member of a group, as all members list it. */
export interface Member {
  readonly seat: string;
  readonly pid: number;
  readonly group: string;
  readonly member: string;
}

/** Of the row `m`: whether the backend that it was written for holds its seat. */
const HOLDS_SEAT = `
  SELECT 1 FROM pg_locks l
   WHERE l.locktype = 'relation' AND l.relation = to_regclass(m.seat)
     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
     AND l.pid = m.pid AND l.mode = 'ExclusiveLock' AND l.granted`;

export async function listMembers(pool: pg.Pool): Promise<(Member & { readonly living: boolean })[]> {
  const { rows } = await pool.query<Member & { living: boolean }>(
    `SELECT m.seat, m.pid, m.grp AS group, m.member, EXISTS (${HOLDS_SEAT}) AS living FROM conger_log_member m`,
  );
  return rows;
}

/** Removes the entries of the dead, and tells all processes to look again where there are any. */
export async function buryDead(pool: pg.Pool): Promise<void> {
  await pool.query(
    `WITH gone AS (DELETE FROM conger_log_member m WHERE NOT EXISTS (${HOLDS_SEAT}) RETURNING m.seat)
     SELECT pg_notify('${GROUP_CHANNEL}', '') FROM gone LIMIT 1`,
  );
}
