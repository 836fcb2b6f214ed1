import type pg from 'pg';
import type { Logger } from '../runtime/log.ts';

/** How long the holder's backend may take to end. */
const TERMINATION_MS = 2_000;

export interface SilenceOptions {
  readonly silentMs: number;
  /** Whether to end a backend that is silent. */
  readonly end: boolean;
  /** Only holders whose connection has this name; absent: any. */
  readonly holder?: string;
  readonly log: Logger;
}

/**
 * Whether PostgreSQL has heard nothing for `silentMs` from whoever holds the seat. Both times are PostgreSQL's, so no two clocks are compared.
 */
export async function isSilent(
  client: pg.Pool | pg.ClientBase,
  seat: string,
  { silentMs, end, holder, log }: SilenceOptions,
): Promise<boolean> {
  const { rows } = await client.query<{ pid: number; silent: number }>({
    name: 'conger-silence',
    text: `SELECT pid, extract(epoch FROM clock_timestamp() - state_change)::float8 AS silent,
                  CASE WHEN $3::boolean THEN pg_terminate_backend(pid, ${TERMINATION_MS}) END AS ended
             FROM pg_locks JOIN pg_stat_activity USING (pid)
            WHERE locktype = 'relation' AND relation = to_regclass($1) AND mode = 'ExclusiveLock' AND granted
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND (application_name = $4 OR $4::text IS NULL)
              AND state_change < clock_timestamp() - $2 * interval '1 ms'`,
    values: [seat, silentMs, end, holder ?? null],
  });
  if (end) for (const row of rows) log.warn({ seat, ...row }, 'ended a holder that was silent');
  return rows.length > 0;
}
