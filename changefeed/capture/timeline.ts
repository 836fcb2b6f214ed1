import type pg from 'pg';
import type { Logger } from '../../runtime/log.ts';
import { lsnToBigint } from '../position.ts';
import { connect, disconnect } from '../postgres.ts';

/** Answers a timeline's history file. */
export type HistoryOf = (timeline: number) => Promise<string>;

/** PostgreSQL tells a history to a walsender's client alone. */
export function histories(postgres: string, name: string, log: Logger): HistoryOf {
  return async (timeline) => {
    const client = await connect({ postgres, name, log, replication: true });
    try {
      const { rows } = await client.query<{ content: Buffer | string }>(`TIMELINE_HISTORY ${timeline}`);
      return String(rows[0]?.content ?? '');
    } finally {
      await disconnect(client);
    }
  };
}

/** The timeline that the primary writes. */
export async function currentTimeline(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ timeline: number }>(
    `SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::integer AS timeline`,
  );
  const timeline = rows[0]?.timeline;
  if (timeline === undefined) throw new Error('PostgreSQL answered no timeline');
  return timeline;
}

/** The LSN at which a history left a timeline: what that has from there on is not of the history. undefined: it never had it. */
export function leftAt(timeline: number, history: string): bigint | undefined {
  for (const line of history.split('\n')) {
    const [id, lsn] = line.trim().split(/\s+/);
    if (lsn !== undefined && Number(id) === timeline) return lsnToBigint(lsn);
  }
  return undefined;
}
