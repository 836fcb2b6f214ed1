import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { CongerError, isCongerError, messageOf } from '../../runtime/errors.ts';
import type { PrimaryFinder } from '../../runtime/postgres/primary.ts';
import { openRoutedPool, type RoutedPool } from '../../runtime/postgres/routed-pool.ts';
import { overloaded } from './errors.ts';

/** Calls that may wait for a connection before further ones are turned away. */
const maxWaiting = 4096;
/** How long a call waits while no host is the primary. */
const patienceMs = 5_000;
const retryMs = 50;

export interface ConnectionsOptions {
  readonly finder: PrimaryFinder;
  /** Where connections lead to. */
  readonly to: 'primary' | 'standbys';
  readonly pool: pg.PoolConfig & { readonly max: number };
}

export function unreachable(error: unknown): CongerError {
  return new CongerError('NoDatabasePeersError', 'no PostgreSQL server takes connections', {
    context: {
      name: error instanceof Error ? error.name : 'Error',
      message: messageOf(error),
      retryAfterMs: 1_000,
    },
    cause: error,
  });
}

/**
 * Connections to whichever host is the primary (or to its standbys). At a switch those to the old one are ended at
 * once, with what they were doing: after it nothing is sent to a host that is no longer the primary.
 */
export class Connections {
  /** As many as there may be. */
  readonly max: number;
  readonly #finder: PrimaryFinder;
  readonly #targets: () => readonly string[];
  readonly #patienceMs: number;
  readonly #routed: RoutedPool;
  readonly #silence: () => void;
  #waiting = 0;

  constructor({ finder, to, pool }: ConnectionsOptions) {
    this.max = pool.max;
    this.#finder = finder;
    this.#targets =
      to === 'standbys'
        ? () => finder.standbys
        : () => (finder.current === undefined ? [] : [finder.current.url]);
    // Whoever asks a standby can ask the primary; and a single host comes back or does not, without a successor.
    this.#patienceMs = to === 'standbys' || finder.hosts === 1 ? 0 : patienceMs;
    this.#routed = openRoutedPool(this.#targets, pool);
    this.#silence = finder.onChange(() => this.#routed.retarget());
  }

  /** For the events of pg's pool; connections are had from `lend` alone. */
  get pool(): pg.Pool {
    return this.#routed.pool;
  }

  /**
   * A connection, which is to be released. While there is no primary it waits for one.
   * @throws NoDatabasePeersError where there is none to lend; OverloadedError where too many wait for one
   */
  async lend(): Promise<pg.PoolClient> {
    if (this.#waiting >= maxWaiting) throw overloaded(this.#waiting);
    this.#waiting++;
    try {
      return await this.#connect(performance.now() + this.#patienceMs);
    } finally {
      this.#waiting--;
    }
  }

  /** Something went wrong on a connection that can mean a switch. */
  suspect(): void {
    this.#finder.suspect();
  }

  async end(): Promise<void> {
    this.#silence();
    await this.#routed.pool.end();
  }

  async #connect(until: number): Promise<pg.PoolClient> {
    for (;;) {
      if (this.#patienceMs > 0 && this.#targets().length === 0) {
        await this.#finder.primary(until - performance.now());
      }
      const target = this.#targets()[0];
      try {
        return await this.#routed.pool.connect();
      } catch (error) {
        if (isCongerError(error)) throw error;
        if (this.pool.totalCount > 0 && messageOf(error).startsWith('timeout exceeded')) {
          throw overloaded(this.#waiting);
        }
        this.suspect();
        const successor = this.#targets()[0];
        if (this.#patienceMs > 0 && successor !== undefined && successor !== target) continue;
        if (performance.now() + retryMs > until) throw unreachable(error);
        await delay(retryMs);
      }
    }
  }
}
