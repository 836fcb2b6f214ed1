import type pg from 'pg';
import { pause } from '../backoff.ts';
import { extendXid, isVisible, parseSnapshot, type Snapshot } from '../snapshot.ts';

/** Transactions become visible some 0.1 ms after they are in the WAL; what takes longer waits for a standby. */
const EAGER_TRIES = 10;
const MOST_PAUSE_MS = 20;

/**
 * Knows what a new read of the primary sees. Being in the WAL comes first, and being visible after it (with a
 * synchronous standby, after the standby has answered): the log may hold only what is both.
 */
export class Visibility {
  readonly #client: pg.Client;
  #snapshot: Snapshot | undefined;

  /** `client` is an ordinary connection to the primary. */
  constructor(client: pg.Client) {
    this.#client = client;
  }

  /**
   * Waits until all these transactions are visible to every read that begins from now on, and answers their 64-bit
   * ids, in the given order.
   */
  async wait(xids32: readonly number[], signal: AbortSignal): Promise<bigint[]> {
    let snapshot = this.#snapshot ?? (await this.#read());
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
    const { rows } = await this.#client.query<{ snapshot: string }>({
      name: 'conger-snapshot',
      text: 'SELECT pg_current_snapshot()::text AS snapshot',
    });
    const text = rows[0]?.snapshot;
    if (text === undefined) throw new Error('PostgreSQL answered no snapshot');
    this.#snapshot = parseSnapshot(text);
    return this.#snapshot;
  }
}
