import type pg from 'pg';
import type { Logger } from '../log.ts';

/** Share of the budget from which on operators are warned. */
const WARN_SHARE = 0.5;

/** What PostgreSQL keeps for a slot. */
export interface SlotWal {
  /** Bytes from what is confirmed to the end of the WAL. */
  readonly behind: number;
  /** Bytes that are kept: from the oldest transaction that was in progress at what is confirmed. */
  readonly held: number;
  /** PostgreSQL's `wal_status`: `reserved`, `extended`, `unreserved`, `lost`. */
  readonly status: string;
  /** Whether anyone reads the slot. */
  readonly active: boolean;
}

/** undefined where there is no such slot. */
export async function slotWal(client: pg.ClientBase, slot: string): Promise<SlotWal | undefined> {
  const { rows } = await client.query<{
    behind: string | null;
    held: string | null;
    status: string | null;
    active: boolean;
  }>({
    name: 'conger-slot-wal',
    text: `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint AS behind,
                  pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint AS held,
                  wal_status AS status, active
             FROM pg_replication_slots WHERE slot_name = $1`,
    values: [slot],
  });
  const [row] = rows;
  if (row === undefined) return undefined;
  return {
    behind: Number(row.behind ?? 0),
    held: Number(row.held ?? 0),
    status: row.status ?? 'lost',
    active: row.active,
  };
}

/**
 * Says once when the WAL that the capture's slot holds comes near its budget, once when it is over it, and once when it
 * is not any more.
 */
export class WalBudget {
  readonly #bytes: number;
  readonly #log: Logger;
  #level = 0;
  #warning: string | undefined;

  constructor(bytes: number, log: Logger) {
    this.#bytes = bytes;
    this.#log = log;
  }

  /** What was warned of, for as long as it holds. */
  get warning(): string | undefined {
    return this.#warning;
  }

  judge({ held, status, active }: SlotWal): void {
    const over = held > this.#bytes || status === 'unreserved' || status === 'lost';
    const near = held > this.#bytes * WARN_SHARE || status === 'extended';
    const level = over ? 2 : near ? 1 : 0;
    const context = { held, budget: this.#bytes, status, active };
    const words =
      status === 'lost'
        ? 'has lost WAL'
        : over
          ? 'holds more WAL than its budget'
          : 'holds much of its budget of WAL';
    const why = active ? 'the log does not take changes, or a transaction stays open' : 'no capture runs';
    this.#warning = level === 0 ? undefined : `the capture's slot ${words}: ${why}`;
    if (level > this.#level) {
      this.#log[over ? 'error' : 'warn'](context, this.#warning);
    } else if (level === 0 && this.#level > 0) {
      this.#log.info(context, "the WAL that the capture's slot holds is within its budget again");
    }
    this.#level = level;
  }
}
