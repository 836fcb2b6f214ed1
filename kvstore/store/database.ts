import pg from 'pg';
import { CongerError } from '../../runtime/errors.ts';
import { failpoint } from '../../runtime/failpoints.ts';
import type { Logger } from '../../runtime/log.ts';
import { isEndOfWait } from '../../runtime/postgres/end-of-wait.ts';
import { openPrimaryFinder, type PrimaryFinder } from '../../runtime/postgres/primary.ts';
import { Connections, unreachable } from './connections.ts';
import { schemaName } from './identifiers.ts';

const statementTimeoutMs = 60_000;
/** A find that may stream for long has longer than an ordinary statement. */
export const streamTimeoutMs = 600_000;
const keepAliveMs = 5_000;

/** Of index-builder.ts: its seat, its builds, and what it asks meanwhile. */
const builderConnections = 8;

/**
 * Five sets of connections to PostgreSQL.
 *
 * `writers` carry the statements of write-statement.ts, which look rows up by key: their plan is made once, and made
 * so that it stays right as a bucket grows from nothing (no sequential scan, no nested loop over the input).
 * `streams` carry searches without a bound, which hold their connection as long as their client reads: the rest never
 * waits for one of these. `builders` carry what may take as long as it takes, and are there only while indexes are
 * built. `readers` carry everything else. `standbys` carry reads that ask for a standby, and are opened by the first of
 * them.
 */
export interface Database {
  readonly finder: PrimaryFinder;
  readonly writers: Connections;
  readonly readers: Connections;
  readonly streams: Connections;
  readonly builders: Connections;
  readonly standbys: Connections;
  close(): Promise<void>;
}

const sqlState = /^[0-9A-Z]{5}$/;
/** Of sessions that PostgreSQL ends (57P0x, and by its time limits), and of a server that takes no writes. */
const lostStates = new Set(['57P01', '57P02', '57P03', '57P04', '57P05', '25P03', '25P04', '25006']);
/** Any errno of the system, and what Node has for a socket that is gone or whose TLS is broken. */
const lostCodes = /^(E(?!RR_)[A-Z0-9_]+|ERR_(STREAM|SSL|TLS)_\w+)$/;
const lostMessages = /^Connection terminated|not queryable|connection.*closed/i;

/** The SQLSTATE of an error that PostgreSQL answered. */
export function stateOf(error: unknown): string | undefined {
  if (!(error instanceof pg.DatabaseError)) return undefined;
  return error.code !== undefined && sqlState.test(error.code) ? error.code : undefined;
}

/** Whether the connection broke, or leads to a server that takes no writes: it is of no more use. */
export function isConnectionLoss(error: unknown): boolean {
  const state = stateOf(error);
  if (state !== undefined) return lostStates.has(state) || state.startsWith('08');
  if (!(error instanceof Error) || error instanceof CongerError) return false;
  const code = 'code' in error ? String(error.code) : '';
  return lostCodes.test(code) || lostMessages.test(error.message);
}

/** Connections whose last commit PostgreSQL stopped waiting for its standby for: it may not be durable. */
const doubtful = new WeakSet<object>();

/** @param postgres URLs of all hosts, comma-separated */
export function openDatabase(postgres: string, poolSize: number, log: Logger): Database {
  const finder = openPrimaryFinder(postgres, log);
  const open = (
    to: 'primary' | 'standbys',
    max: number,
    options: readonly string[] = [],
    own: Partial<Pick<pg.PoolConfig, 'statement_timeout' | 'idleTimeoutMillis'>> = {},
  ): Connections => {
    const settings = [
      `search_path=${schemaName},public`,
      'jit=off',
      // A server that is stopped or cut off does not keep its locks; hooks may keep a live one waiting for 10 s.
      'idle_in_transaction_session_timeout=30s',
      // Nor the snapshot of an answer that it does not read. A live one pauses, too, while its client is slow.
      `tcp_user_timeout=${streamTimeoutMs}`,
      'tcp_keepalives_idle=10',
      'tcp_keepalives_interval=10',
      'tcp_keepalives_count=6',
      ...options,
    ];
    const connections = new Connections({
      finder,
      to,
      pool: {
        max,
        keepAlive: true,
        keepAliveInitialDelayMillis: keepAliveMs,
        idleTimeoutMillis: 0,
        connectionTimeoutMillis: 10_000,
        statement_timeout: statementTimeoutMs,
        application_name: 'conger-kvstore',
        options: settings.map((setting) => `-c ${setting}`).join(' '),
        ...own,
      },
    });
    connections.pool.on('error', (error) => {
      log.warn({ err: error }, 'an idle connection to PostgreSQL broke');
      connections.suspect();
    });
    connections.pool.on('connect', (client) => {
      client.on('error', (error: Error) => log.debug({ err: error }, 'a connection to PostgreSQL broke'));
      client.on('notice', (notice) => {
        if (isEndOfWait(notice)) doubtful.add(client);
      });
    });
    return connections;
  };
  const writers = Math.max(2, Math.ceil(poolSize / 2));
  const readers = Math.max(2, poolSize - writers);
  const database = {
    writers: open('primary', writers, [
      'plan_cache_mode=force_generic_plan',
      'enable_seqscan=off',
      'enable_nestloop=off',
    ]),
    // A plan that was made while a bucket was small is used on as it grows, for a while.
    readers: open('primary', readers, ['enable_seqscan=off']),
    builders: open(
      'primary',
      builderConnections,
      [
        'statement_timeout=0',
        'lock_timeout=0',
        'transaction_timeout=0',
        // A build leaves processors to the writers.
        'max_parallel_maintenance_workers=0',
        // A machine that is gone does not keep the seat. On Linux tcp_user_timeout would go before the count.
        'tcp_user_timeout=0',
        'tcp_keepalives_idle=3',
        'tcp_keepalives_interval=1',
        'tcp_keepalives_count=3',
      ],
      { statement_timeout: 0, idleTimeoutMillis: 10_000 },
    ),
    streams: open('primary', Math.max(2, Math.ceil(poolSize / 4))),
    standbys: open('standbys', readers),
  };
  return {
    finder,
    ...database,
    close: async () => {
      await finder.close();
      await Promise.all(Object.values(database).map((connections) => connections.end()));
    },
  };
}

function unknownOutcome(error: unknown): CongerError {
  return new CongerError(
    'UnknownOutcomeError',
    'the connection to PostgreSQL broke in mid-write: it may or may not have happened',
    { cause: error },
  );
}

/**
 * Lends a connection to `work`, and throws it away if it breaks meanwhile, or is given back in a transaction.
 * @throws NoDatabasePeersError where there is none to lend; OverloadedError where too many wait for one
 */
export async function withClient<T>(
  connections: Connections,
  work: (client: pg.PoolClient) => Promise<T>,
): Promise<T> {
  const client = await connections.lend();
  let broken = true;
  try {
    const result = await work(client);
    broken = false;
    return result;
  } catch (error) {
    const lost = isConnectionLoss(error instanceof CongerError ? error.cause : error);
    if (lost) connections.suspect();
    broken = lost || doubtful.has(client);
    throw error;
  } finally {
    client.release(broken || client.getTransactionStatus() !== 'I');
  }
}

/**
 * Reads: a connection that breaks is a NoDatabasePeersError, and the read may be made again. Where `begun` is given and
 * answers no, it is, once.
 */
export async function reading<T>(
  connections: Connections,
  work: (client: pg.PoolClient) => Promise<T>,
  begun: () => boolean = () => true,
): Promise<T> {
  try {
    return await withClient(connections, work);
  } catch (error) {
    if (!isConnectionLoss(error)) throw error;
    if (begun()) throw unreachable(error);
  }
  return reading(connections, work);
}

async function commit(client: pg.PoolClient): Promise<pg.QueryResult> {
  await failpoint('kvstore.commit.before');
  const end = await client.query('COMMIT');
  await failpoint('kvstore.commit.after');
  return end;
}

/** Passes on what `commit` answers, once it is certain that it is durable. */
async function certain<T>(client: pg.PoolClient, commit: Promise<T>): Promise<T> {
  let result: T;
  try {
    result = await commit;
  } catch (error) {
    if (stateOf(error) === '25006') throw unreachable(error);
    throw isConnectionLoss(error) ? unknownOutcome(error) : error;
  }
  if (doubtful.has(client)) throw unknownOutcome(new Error('the standby has not confirmed the commit'));
  return result;
}

/**
 * Runs one statement as a transaction of its own.
 * @throws UnknownOutcomeError where the connection broke before its answer came
 */
export async function committing<T>(
  connections: Connections,
  statement: (client: pg.PoolClient) => Promise<T>,
): Promise<T> {
  return withClient(connections, (client) => certain(client, statement(client)));
}

/**
 * Runs `work` in a transaction: commits where it resolves, rolls back where it rejects.
 * @throws NoDatabasePeersError where the connection broke before the commit was sent; UnknownOutcomeError after it
 */
export async function transaction<T>(
  connections: Connections,
  work: (client: pg.PoolClient) => Promise<T>,
): Promise<T> {
  return withClient(connections, async (client) => {
    let result: T;
    try {
      await client.query('BEGIN');
      result = await work(client);
    } catch (error) {
      if (isConnectionLoss(error)) throw unreachable(error);
      await client.query('ROLLBACK').catch((lost: unknown) => {
        throw unreachable(lost);
      });
      throw error;
    }
    const end = await certain(client, commit(client));
    if (end.command !== 'COMMIT')
      throw new Error('a transaction was rolled back where it was to be committed');
    return result;
  });
}
