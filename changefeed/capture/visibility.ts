import type pg from 'pg';
import { pause } from '../backoff.ts';
import { extendXid, isVisible, parseSnapshot, type Snapshot } from '../snapshot.ts';

/** Transactions become visible some 0.1 ms after they are in the WAL; what takes longer waits for a standby. */
const EAGER_TRIES = 10;
const MOST_PAUSE_MS = 20;
/** How long a snapshot tells which 64-bit id a 32-bit one is: no 2^31 transactions take so little time. */
const FRESH_MS = 60_000;

/**
 * Knows what a new read of the primary sees. Being in the WAL comes first, and being visible after it (with a
 * synchronous standby, after the standby has answered): the log may hold only what is both.
 */
export class Visibility {
  readonly #client: pg.Client;
  readonly #now: () => number;
  #snapshot: Snapshot | undefined;
  #readAt = 0;

  /** `client` is an ordinary connection to the primary. */
  constructor(client: pg.Client, now: () => number = () => performance.now()) {
    this.#client = client;
    this.#now = now;
  }

  /**
   * Waits until all these transactions are visible to every read that begins from now on, and answers their 64-bit
   * ids, in the given order.
   */
  async wait(xids32: readonly number[], signal: AbortSignal): Promise<bigint[]> {
    const fresh = this.#now() - this.#readAt < FRESH_MS ? this.#snapshot : undefined;
    let snapshot = fresh ?? (await this.#read());
    for (let tries = 0; ; tries++) {
      const now = snapshot;
      const xids = xids32.map((xid) => extendXid(xid, now));
      if (xids.every((xid) => isVisible(xid, now))) return xids;
      signal.throwIfAborted();
      if (tries > EAGER_TRIES) await pause(Math.min(tries - EAGER_TRIES, MOST_PAUSE_MS), signal);
      snapshot = await this.#read();
    }
  }

  async #read(): Promise<Snapshot> {
    const asked = this.#now();
    const { rows } = await this.#client.query<{ snapshot: string }>({
      name: 'conger-snapshot',
      text: 'SELECT pg_current_snapshot()::text AS snapshot',
    });
    const text = rows[0]?.snapshot;
    if (text === undefined) throw new Error('PostgreSQL answered no snapshot');
    this.#snapshot = parseSnapshot(text);
    this.#readAt = asked;
    return this.#snapshot;
  }
}
