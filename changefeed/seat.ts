import type pg from 'pg';
import { messageOf } from '../runtime/errors.ts';
import { answered } from './answered.ts';
import { type ConnectOptions, connect, disconnect, ended } from './postgres.ts';

/**
 * A seat is a name in PostgreSQL that one connection holds at a time, and that others can wait for.
 *
 * It is an empty view, held by LOCK TABLE in a transaction that does nothing else, and not an advisory lock, because
 * who waits in `SELECT pg_advisory_lock()` keeps a snapshot for as long as it waits: vacuum would clean nothing up and
 * CREATE INDEX CONCURRENTLY would never end. LOCK TABLE waits without a snapshot (see `lock`). A view and not a table,
 * because vacuum would have to wait for the lock of a table.
 */

/** Not ACCESS EXCLUSIVE, which is written to the WAL and so would take a transaction id. */
const HOLD = 'EXCLUSIVE';
/** Waits for the holder, and not for those who wait as well. */
const WATCH = 'SHARE';

const LOCK_NOT_AVAILABLE = '55P03';

/** One after another: connections that open seats at the same time would meet in the catalog. */
export const SCHEMA_LOCK = 0x636f6e67;

/** Makes the seat; harmless where it is there. `name` must be a plain identifier. */
export async function ensureSeat(client: pg.Client, name: string): Promise<void> {
  if (!/^[a-z_][a-z0-9_]{0,62}$/.test(name)) throw new RangeError(`not a name for a seat: ${name}`);
  await client.query(`
    DO $$ BEGIN
      IF to_regclass('${name}') IS NULL THEN
        PERFORM pg_advisory_xact_lock(${SCHEMA_LOCK});
        IF to_regclass('${name}') IS NULL THEN
          CREATE VIEW ${name} AS SELECT 1 AS seat;
        END IF;
      END IF;
    END $$`);
}

/** A seat that is held for as long as `client` is connected. */
export interface Seat {
  readonly name: string;
  /**
   * Inside of a transaction. Queries must be without parameters: with them PostgreSQL keeps the portal, and its
   * snapshot, until the next one.
   */
  readonly client: pg.Client;
  /** The process id of the backend that holds it. */
  readonly pid: number;
  /** Resolves when the connection is gone, and the seat with it. */
  readonly lost: Promise<void>;
  leave(): Promise<void>;
}

/**
 * Takes the seat, after whoever holds it. Aborting `signal` ends the wait with an error, and so does a connection that is
 * gone without a word: the seat may be ours, and nobody tells us.
 */
export function takeSeat(options: ConnectOptions, name: string, signal: AbortSignal): Promise<Seat> {
  return inSession(options, async (client) => {
    await ensureSeat(client, name);
    await lock(client, name, HOLD, signal);
    return seated(client, name);
  });
}

/** Takes the first seat of `names` that is free, or answers undefined. */
export function takeFreeSeat(options: ConnectOptions, names: Iterable<string>): Promise<Seat | undefined> {
  return inSession(options, async (client) => {
    for (const name of names) {
      await ensureSeat(client, name);
      if (await tryLock(client, name, HOLD)) return seated(client, name);
    }
    await disconnect(client);
    return undefined;
  });
}

/** Resolves once nobody holds the seat. Aborting `signal` ends the wait with an error. */
export async function seatIsFree(options: ConnectOptions, name: string, signal: AbortSignal): Promise<void> {
  const client = await connect(options);
  try {
    await setUp(client, options);
    await lock(client, name, WATCH, signal);
  } finally {
    await disconnect(client);
  }
}

/**
 * The try comes first for a reason: looking the view up in the catalog takes a snapshot, and one that is taken in the
 * statement that waits is kept. After the try everything is in the session's caches.
 */
async function lock(client: pg.Client, name: string, mode: string, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  if (await tryLock(client, name, mode)) return;
  // Ending the connection is the only way out of the wait that needs no second one.
  const abort = () => void client.end().catch(() => undefined);
  signal.throwIfAborted();
  signal.addEventListener('abort', abort, { once: true });
  try {
    await client.query(`BEGIN; LOCK TABLE ${name} IN ${mode} MODE`);
  } finally {
    signal.removeEventListener('abort', abort);
  }
  signal.throwIfAborted();
}

async function tryLock(client: pg.Client, name: string, mode: string): Promise<boolean> {
  try {
    await client.query(`BEGIN; LOCK TABLE ${name} IN ${mode} MODE NOWAIT`);
    return true;
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === LOCK_NOT_AVAILABLE)) throw error;
    await client.query('ROLLBACK');
    return false;
  }
}

/** Answers what `take` does in a session of its own; the session ends where that fails, or PostgreSQL went silent. */
async function inSession<T>(options: ConnectOptions, take: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = await connect(options);
  const work = async () => {
    await setUp(client, options);
    return take(client);
  };
  try {
    return await answered(client, { ...options, name: `${options.name} doubt` }, work());
  } catch (error) {
    await disconnect(client);
    throw error;
  }
}

async function seated(client: pg.Client, name: string): Promise<Seat> {
  const lost = ended(client);
  const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  return { name, client, pid: rows[0]?.pid ?? 0, lost, leave: () => disconnect(client) };
}

/**
 * Makes it a session that may sit in a transaction or wait for a lock for good, and whose end PostgreSQL notices: a dead
 * process by its socket, even in mid-wait, and a dead machine by TCP's keepalives.
 */
async function setUp(client: pg.Client, { log }: ConnectOptions): Promise<void> {
  const settings: [name: string, value: string][] = [
    ['idle_in_transaction_session_timeout', '0'],
    ['statement_timeout', '0'],
    ['lock_timeout', '0'],
    ['transaction_timeout', '0'],
    ['tcp_keepalives_idle', '3'],
    ['tcp_keepalives_interval', '1'],
    ['tcp_keepalives_count', '3'],
    ['client_connection_check_interval', '1000'],
  ];
  for (const [name, value] of settings) {
    try {
      await client.query(`SET ${name} = ${value}`);
    } catch (error) {
      // An older PostgreSQL or another platform does not know all of them.
      log.debug({ setting: name }, `session setting refused: ${messageOf(error)}`);
    }
  }
}
