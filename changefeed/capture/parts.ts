import type pg from 'pg';
import { lsnToBigint } from '../position.ts';
import { extendXid, isVisible, parseSnapshot } from '../snapshot.ts';

/** The shortest and the longest time without parts. */
const FIRST_MS = 4_000;
const MOST_MS = 300_000;

/** Says that the stream has to begin anew, from what is confirmed. Nothing is wrong with the seat or the log. */
export class StreamAnewError extends Error {
  /** Transactions that have to come at their commits, and not in parts before. */
  readonly xids32: readonly number[];

  constructor(why: string, xids32: readonly number[]) {
    super(why);
    this.name = 'StreamAnewError';
    this.xids32 = xids32;
  }
}

/**
 * Whether PostgreSQL is to send large transactions in parts while they are in progress. Without parts every transaction
 * can be dealt with, and with them none has to wait for all of another one at its commit. So there are none for as long
 * as a transaction that could not come in parts may come again, and there are some again afterwards. Where that happens
 * often the times without parts double, since each change between the two has WAL read again.
 */
export class Parts {
  readonly #now: () => number;
  readonly #without = new Set<number>();
  #ms = FIRST_MS;
  /** When the time without parts began, or else the one with them. */
  #since = Number.NEGATIVE_INFINITY;
  /** Where the WAL ended when the last of these transactions was over. */
  #overAt: bigint | undefined;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Whether they may come now. */
  get allowed(): boolean {
    return this.#without.size === 0;
  }

  forbid(xids32: readonly number[]): void {
    if (xids32.length === 0) return;
    const now = this.#now();
    if (this.allowed) {
      const calm = now - this.#since > MOST_MS;
      this.#ms = calm ? FIRST_MS : Math.min(this.#ms * 2, MOST_MS);
      this.#since = now;
    }
    for (const xid of xids32) this.#without.add(xid);
    this.#overAt = undefined;
  }

  /**
   * Allows them again where the transactions that could not come in parts are over, and all that was committed by then is
   * `confirmed`. Answers whether it did. To be asked from time to time, since nobody tells when a transaction ends.
   */
  async allowAgain(client: pg.Client, confirmed: bigint): Promise<boolean> {
    if (this.allowed || this.#now() - this.#since < this.#ms) return false;
    this.#overAt ??= await endOfWal(client, this.#without);
    if (this.#overAt === undefined || confirmed < this.#overAt) return false;
    this.#without.clear();
    this.#since = this.#now();
    return true;
  }
}

/** Where the WAL ends, if these transactions are over; undefined if one of them is in progress. */
async function endOfWal(client: pg.Client, xids32: Iterable<number>): Promise<bigint | undefined> {
  const { rows } = await client.query<{ snapshot: string; lsn: string }>(
    'SELECT pg_current_snapshot()::text AS snapshot, pg_current_wal_insert_lsn()::text AS lsn',
  );
  const [row] = rows;
  if (row === undefined) return undefined;
  const snapshot = parseSnapshot(row.snapshot);
  const over = [...xids32].every((xid) => isVisible(extendXid(xid, snapshot), snapshot));
  return over ? lsnToBigint(row.lsn) : undefined;
}
