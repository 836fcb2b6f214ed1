import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';

/** What a host last said of itself. */
export type HostState =
  | { readonly kind: 'unknown' }
  | { readonly kind: 'primary'; readonly timeline: number }
  /** `timeline`: the one that it streams; undefined while it streams from nobody. */
  | { readonly kind: 'standby'; readonly timeline: number | undefined }
  /** It takes no connections: it does not run, or is starting or shutting down. */
  | { readonly kind: 'away' }
  /** It does not answer in time: frozen, cut off, or overloaded. `since` is on performance.now()'s clock. */
  | { readonly kind: 'silent'; readonly since: number }
  /** It answers, with an error that says nothing of its role (too many connections, for one). */
  | { readonly kind: 'unclear'; readonly error: unknown };

/** A host that has not answered after this long is silent. */
const answerMs = 1_000;
const leastPauseMs = 20;

const question = `
  SELECT pg_is_in_recovery() AS standby, CASE WHEN pg_is_in_recovery()
    THEN (SELECT received_tli FROM pg_stat_wal_receiver)
    ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::integer END AS timeline`;

export interface HostWatchOptions {
  /** Shown in pg_stat_activity. */
  readonly name: string;
  readonly onState: (state: HostState) => void;
  /** How long to rest after an answer, in milliseconds; asked each time. */
  readonly restMs: () => number;
}

/**
 * Knows what one host says of itself, over a connection of its own. A host that is frozen or cut off breaks no
 * connection, and a standby says nothing when it is promoted: so it is asked again and again, one cheap statement at a
 * time; a connection that ends is followed up at once.
 */
export class HostWatch {
  readonly url: string;
  readonly #options: HostWatchOptions;
  readonly #loop: Promise<void>;
  #state: HostState = { kind: 'unknown' };
  #client: pg.Client | undefined;
  #nudged = false;
  #wake: () => void = () => {};
  #closed = false;

  constructor(url: string, options: HostWatchOptions) {
    this.url = url;
    this.#options = options;
    this.#loop = this.#run();
  }

  get state(): HostState {
    return this.#state;
  }

  /** Asks at once; again, where an answer is on its way that may be from before. */
  nudge(): void {
    this.#nudged = true;
    this.#wake();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#drop();
    this.#wake();
    await this.#loop;
  }

  async #run(): Promise<void> {
    while (!this.#closed) {
      this.#nudged = false;
      const state = await this.#ask();
      if (this.#closed) break;
      const before = this.#state;
      this.#state = state.kind === 'silent' && before.kind === 'silent' ? before : state;
      this.#options.onState(this.#state);
      await this.#rest();
    }
  }

  async #rest(): Promise<void> {
    await delay(leastPauseMs);
    if (this.#nudged || this.#closed) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, this.#options.restMs());
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  async #ask(): Promise<HostState> {
    if (this.#client !== undefined) {
      try {
        return await this.#question(this.#client);
      } catch (error) {
        this.#drop();
        const state = stateAfter(error);
        // A connection that has ended tells nothing of the host; a new one will.
        if (state.kind !== 'away') return state;
      }
    }
    try {
      return await this.#question(await this.#connect());
    } catch (error) {
      this.#drop();
      return stateAfter(error);
    }
  }

  async #connect(): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString: this.url,
      application_name: this.#options.name,
      connectionTimeoutMillis: answerMs,
      query_timeout: answerMs,
    });
    this.#client = client;
    client.on('error', () => {});
    client.on('end', () => {
      if (this.#client !== client) return;
      this.#client = undefined;
      this.nudge();
    });
    await client.connect();
    return client;
  }

  async #question(client: pg.Client): Promise<HostState> {
    const { rows } = await client.query<{ standby: boolean; timeline: number | null }>(question);
    const [row] = rows;
    if (row === undefined) return { kind: 'unclear', error: new Error('it answered no row') };
    if (row.standby) return { kind: 'standby', timeline: row.timeline ?? undefined };
    return { kind: 'primary', timeline: row.timeline ?? 0 };
  }

  #drop(): void {
    const client = this.#client;
    this.#client = undefined;
    if (client !== undefined) destroy(client);
  }
}

/** Ends a connection without a goodbye, which a frozen host would not answer; what it was doing fails. */
export function destroy(client: pg.Client): void {
  client.connection.stream.destroy();
}

function stateAfter(error: unknown): HostState {
  if (error instanceof pg.DatabaseError) {
    return /^(57P0|08)/.test(error.code ?? '') ? { kind: 'away' } : { kind: 'unclear', error };
  }
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const late = code === 'ETIMEDOUT' || (error instanceof Error && /timeout/i.test(error.message));
  return late ? { kind: 'silent', since: performance.now() } : { kind: 'away' };
}
