import pg from 'pg';
import type { Logger } from '../runtime/log.ts';
import { destroy } from '../runtime/postgres/host-watch.ts';
import { openPrimaryFinder } from '../runtime/postgres/primary.ts';

/** Silence after which TCP asks whether the other side is still there. */
export const KEEPALIVE_MS = 5_000;

/** How long to wait for a primary, and for it to answer. */
export const CONNECT_MS = 10_000;

/** How long PostgreSQL may take to answer before the connection is given up: it may be gone without a word. */
export const ANSWER_MS = 15_000;

export interface ConnectOptions {
  /** As CONGER_POSTGRES: the URLs of all hosts, comma-separated. */
  readonly postgres: string;
  /** Shown in pg_stat_activity. */
  readonly name: string;
  readonly log: Logger;
  /** Opens a walsender bound to the URL's database instead of an ordinary backend. */
  readonly replication?: boolean;
}

/**
 * One connection of its own (no pool), to the primary. A connection that breaks is logged here and seen by its owner as
 * the event `end`, and as the failure of what it was doing. One whose host is no longer the primary is broken: a frozen
 * host does not do that by itself.
 */
export async function connect(options: ConnectOptions): Promise<pg.Client> {
  const finder = openPrimaryFinder(options.postgres, options.log);
  try {
    const { url } = await finder.primary(CONNECT_MS);
    const client = await open(options, url);
    finder.onChange(() => {
      if (finder.current?.url !== url) destroy(client);
    });
    client.once('end', () => void finder.close());
    // Both may have happened while it connected.
    if (finder.current?.url !== url || client.connection.stream.destroyed) {
      destroy(client);
      throw new Error('the connection was lost as it was opened');
    }
    return client;
  } catch (error) {
    finder.suspect();
    await finder.close();
    throw error;
  }
}

async function open(options: ConnectOptions, url: string): Promise<pg.Client> {
  const config: pg.ClientConfig & { replication?: string } = {
    connectionString: url,
    application_name: options.name,
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEPALIVE_MS,
    connectionTimeoutMillis: CONNECT_MS,
    ...(options.replication === true ? { replication: 'database' } : {}),
  };
  const client = new pg.Client(config);
  client.on('error', (error) =>
    options.log.debug({ err: error, connection: options.name }, 'connection lost'),
  );
  await client.connect();
  return client;
}

/** Resolves once the connection has ended, whoever ended it. */
export function ended(client: pg.Client): Promise<void> {
  return new Promise((resolve) => client.once('end', () => resolve()));
}

/** The wire under a client, which pg has and its types do not show. */
export function connectionOf(client: pg.Client): pg.Connection {
  return (client as unknown as { readonly connection: pg.Connection }).connection;
}

/** Closes the connection; one that is broken, or whose other side says nothing for a second, is no error. */
export async function disconnect(client: pg.Client | undefined): Promise<void> {
  if (client === undefined) return;
  const impatience = setTimeout(() => connectionOf(client).stream.destroy(), 1000);
  await client.end().catch(() => undefined);
  clearTimeout(impatience);
}
