import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { isCongerError, messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import { type BucketChange, type ChangeFailure, changeOf, type RegistryRow } from './bucket.ts';
import { abandonChange, columnsToBe, completeChange } from './bucket-change.ts';
import { compareIndexes, createIndex, dropIndex, type Index } from './bucket-indexes.ts';
import type { Connections } from './connections.ts';
import { isConnectionLoss, reading, stateOf, withClient } from './database.ts';
import { builderSeat, changesTable, tableOf } from './identifiers.ts';
import { readRegistry } from './registry.ts';
import { isRace } from './retry.ts';
import { retryingLocks } from './table-lock.ts';

const maxBuilds = 3;
const pauseMs = 1_000;
const beatMs = 1_000;

/** An index could not be built, and will not be by another try. */
class BuildFailed extends Error {
  readonly failure: ChangeFailure;

  constructor(failure: ChangeFailure) {
    super(failure.message);
    this.failure = failure;
  }
}

/**
 * Builds the indexes of buckets that are changing, without stopping their writers, and completes the changes.
 *
 * Every server has one, and whichever is told of a change first builds; the others wait for the seat, and go on with
 * what is left when the builder dies. The seat only saves work: what there is to do stands in the registry and in
 * PostgreSQL's catalog, each build first waits for one of a server that died, and what ends a change looks whether it
 * is still under way.
 */
export class IndexBuilder {
  readonly #connections: Connections;
  readonly #log: Logger;
  readonly #closed = new AbortController();
  #woken = false;
  #onWake: (() => void) | undefined;
  #running: Promise<void> | undefined;

  /** @param connections whose statements may take as long as they take */
  constructor(connections: Connections, log: Logger) {
    this.#connections = connections;
    this.#log = log;
  }

  /** There may be something to do. */
  wake(): void {
    this.#woken = true;
    this.#onWake?.();
    if (this.#closed.signal.aborted) return;
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined;
    });
  }

  async close(): Promise<void> {
    this.#closed.abort();
    this.#onWake?.();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#closed;
    while (this.#woken && !signal.aborted) {
      this.#woken = false;
      try {
        if ((await this.#changing()).length > 0) await this.#seated();
      } catch (error) {
        if (signal.aborted) return;
        this.#log.warn({ err: error }, `cannot build indexes yet: ${messageOf(error)}`);
        this.#woken = true;
        await this.#pause();
      }
    }
  }

  async #changing(): Promise<string[]> {
    return reading(this.#connections, async (client) => {
      const { rows } = await client.query<{ name: string }>(
        `SELECT name FROM ${changesTable} WHERE change IS NOT NULL ORDER BY name`,
      );
      return rows.map((row) => row.name);
    });
  }

  /** Builds while holding the seat. */
  async #seated(): Promise<void> {
    await withClient(this.#connections, async (client) => {
      await this.#lock(client, builderSeat, 'EXCLUSIVE');
      const done = new AbortController();
      // A seat that is lost is no reason to stop: another server then only waits for the builds that are under way.
      this.#beat(client, done.signal).catch(() => undefined);
      try {
        await this.#buildAll();
      } finally {
        done.abort();
      }
      await client.query('ROLLBACK');
    });
  }

  /** PostgreSQL ends a transaction that it hears nothing of (database.ts), so who is stopped loses the seat. */
  async #beat(client: pg.PoolClient, signal: AbortSignal): Promise<void> {
    for (;;) {
      await delay(beatMs, undefined, { signal });
      await client.query('');
    }
  }

  /**
   * Waits for a lock, and is then in a transaction. A wait holds no snapshot, which a build elsewhere would wait for
   * in its turn: LOCK TABLE takes none, and the try that comes first has read what it needs of the catalog.
   */
  async #lock(client: pg.PoolClient, relation: string, mode: string): Promise<void> {
    // So that a server that dies while it waits does not stay in the line.
    const begin = 'BEGIN; SET LOCAL client_connection_check_interval = 1000';
    const lock = `LOCK TABLE ${relation} IN ${mode} MODE`;
    // By itself: with its answer the client knows that it is in a transaction, whatever comes of the lock.
    await client.query(begin);
    try {
      await client.query(`${lock} NOWAIT`);
    } catch (error) {
      if (stateOf(error) !== '55P03') throw error;
      await client.query('ROLLBACK');
      await client.query(begin);
      await this.#unlessClosed(client.query(lock));
    }
  }

  /** Several buckets at a time, until none is left; what comes meanwhile is taken up at once. */
  async #buildAll(): Promise<void> {
    const active = new Map<string, Promise<void>>();
    try {
      for (;;) {
        this.#woken = false;
        for (const name of await this.#changing()) {
          if (active.has(name) || active.size >= maxBuilds) continue;
          active.set(
            name,
            this.#change(name).finally(() => active.delete(name)),
          );
        }
        if (active.size === 0 || this.#closed.signal.aborted) return;
        await Promise.race([...active.values(), this.#wakened()]);
      }
    } finally {
      await Promise.all(active.values());
    }
  }

  async #wakened(): Promise<void> {
    if (this.#woken || this.#closed.signal.aborted) return;
    await new Promise<void>((resolve) => {
      this.#onWake = resolve;
    });
  }

  /** Never rejects: a change that cannot be ended yet is still there to be taken up again. */
  async #change(name: string): Promise<void> {
    try {
      const row = await readRegistry(this.#connections, name);
      const change = row && changeOf(row);
      if (row === undefined || change === undefined) return;
      try {
        await this.#build(row, change);
      } catch (error) {
        if (!(error instanceof BuildFailed)) throw error;
        const { failure } = error;
        this.#log.error({ bucket: name, failure }, `a bucket stays as it was: ${failure.message}`);
        await this.#end((client) => abandonChange(client, name, change.id, failure));
        return;
      }
      await this.#end((client) => completeChange(client, name, change.id));
      this.#log.info({ bucket: name, version: change.config.options.version }, 'a bucket has changed');
    } catch (error) {
      if (this.#closed.signal.aborted || isCongerError(error, 'BucketNotFoundError')) return;
      this.#log.warn({ err: error, bucket: name }, `cannot change a bucket yet: ${messageOf(error)}`);
      await this.#pause();
    }
  }

  async #build(row: RegistryRow, change: BucketChange): Promise<void> {
    const { name } = row;
    await withClient(this.#connections, async (client) => {
      // A build of a server that died goes on in PostgreSQL; when it ends the index is there.
      await this.#lock(client, tableOf(name), 'SHARE UPDATE EXCLUSIVE');
      await client.query('ROLLBACK');
      const columns = columnsToBe(row, change.config);
      const { missing, invalid } = await compareIndexes(client, name, columns);
      for (const index of invalid) await this.#unlessClosed(dropIndex(client, index, true));
      for (const index of missing) await this.#buildIndex(client, name, index);
    });
  }

  async #buildIndex(client: pg.PoolClient, bucket: string, index: Index): Promise<void> {
    const { field } = index.column;
    const started = performance.now();
    this.#log.info({ bucket, field }, 'building an index');
    try {
      await this.#unlessClosed(createIndex(client, bucket, index, true));
    } catch (error) {
      throw failureOf(error, field) ?? error;
    }
    this.#log.info({ bucket, field, ms: Math.round(performance.now() - started) }, 'an index is built');
  }

  async #end(work: (client: pg.PoolClient) => Promise<void>): Promise<void> {
    const { signal } = this.#closed;
    await retryingLocks(this.#connections, work, Number.POSITIVE_INFINITY, signal);
  }

  /** The server's end does not wait for the statement: its connection is closed, and another server goes on. */
  async #unlessClosed<T>(statement: Promise<T>): Promise<T> {
    const { signal } = this.#closed;
    let onAbort = () => {};
    const aborted = new Promise<never>((_, reject) => {
      onAbort = () => reject(new Error('Connection terminated: this server ends'));
    });
    signal.addEventListener('abort', onAbort);
    if (signal.aborted) onAbort();
    statement.catch(() => undefined);
    try {
      return await Promise.race([statement, aborted]);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  async #pause(): Promise<void> {
    const { signal } = this.#closed;
    await delay(pauseMs, undefined, { signal }).catch(() => undefined);
  }
}

/**
 * What another try may not meet: the index, or the bucket, was made or dropped by another; PostgreSQL is short of
 * memory or connections.
 */
const passing = new Set(['42P07', '42P01', '42704', '53200', '53300']);

/** What makes a change end without having been made: values that do not fit, a full disk, somebody's wish (57014). */
function failureOf(error: unknown, field: string): BuildFailed | undefined {
  const state = stateOf(error);
  if (state === undefined || passing.has(state) || isRace(error) || isConnectionLoss(error)) return undefined;
  const [, value] = /=\((.*)\) is duplicated/s.exec((error as pg.DatabaseError).detail ?? '') ?? [];
  return new BuildFailed({ state, message: messageOf(error), field, ...(value !== undefined && { value }) });
}
