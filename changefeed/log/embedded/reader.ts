import type pg from 'pg';
import { CongerError, messageOf } from '../../../runtime/errors.ts';
import type { Logger } from '../../../runtime/log.ts';
import { openPrimaryFinder, type PrimaryFinder } from '../../../runtime/postgres/primary.ts';
import { openRoutedPool } from '../../../runtime/postgres/routed-pool.ts';
import { Backoff } from '../../backoff.ts';
import { ANSWER_MS, CONNECT_MS, connect, disconnect, KEEPALIVE_MS } from '../../postgres.ts';
import type { Cursor, GroupHandler, LogBatch, LogReader, Position, Reading } from '../../types.ts';
import { Doorbell } from './doorbell.ts';
import { GroupMember } from './group.ts';
import { Membership } from './membership.ts';
import { Pump } from './pump.ts';
import { countBehind, type Extent, fetchPage, fetchRecords, holdsBehind, readExtents } from './rows.ts';
import { ensureLog, GROUP_CHANNEL, LOG_CHANNEL } from './schema.ts';

export interface EmbeddedReaderOptions {
  readonly postgres: string;
  readonly partitions: number;
  readonly log: Logger;
}

const CONNECTIONS = 3;

/**
 * Reads the table. The doorbell says when to look, and positions say from where: whatever a bell, a connection or a
 * restart of PostgreSQL loses, the next look finds.
 */
export class EmbeddedReader implements LogReader {
  readonly partitions: number;
  readonly #log: Logger;
  readonly #finder: PrimaryFinder;
  readonly #pool: pg.Pool;
  readonly #doorbell: Doorbell;
  readonly #membership: Membership;
  readonly #closed = new AbortController();
  readonly #readings = new Set<Reading>();
  /** The page that is being read: pages take one connection at most, and leave the others to what is live. */
  #paging: Promise<unknown> = Promise.resolve();

  private constructor({ postgres, partitions, log }: EmbeddedReaderOptions) {
    this.partitions = partitions;
    this.#log = log;
    const finder = openPrimaryFinder(postgres, log);
    const primary = () => (finder.current === undefined ? [] : [finder.current.url]);
    const { pool, retarget } = openRoutedPool(primary, {
      application_name: 'conger log reader',
      max: CONNECTIONS,
      keepAlive: true,
      keepAliveInitialDelayMillis: KEEPALIVE_MS,
      connectionTimeoutMillis: CONNECT_MS,
      query_timeout: ANSWER_MS,
      // A backend that waits for a lock does not notice that it was given up.
      statement_timeout: ANSWER_MS,
      // Nor does one that waits for the standby, which members need not: with the primary all seats are lost.
      options: '-c synchronous_commit=local',
    });
    finder.onChange(retarget);
    pool.on('error', (error) => log.debug({ err: error }, 'an idle connection was lost'));
    this.#finder = finder;
    this.#pool = pool;
    this.#doorbell = new Doorbell(finder, [LOG_CHANNEL, GROUP_CHANNEL], log);
    this.#membership = new Membership({ postgres, pool: this.#pool, doorbell: this.#doorbell, log });
  }

  /** @throws Error where PostgreSQL does not answer, or the log has another number of partitions. */
  static async open(options: EmbeddedReaderOptions): Promise<EmbeddedReader> {
    const reader = new EmbeddedReader(options);
    try {
      // Over a connection of its own: to make the tables may take long.
      const client = await connect({ ...options, name: 'conger log schema' });
      try {
        await ensureLog(client, options.partitions);
      } finally {
        await disconnect(client);
      }
    } catch (error) {
      await reader.close();
      throw error;
    }
    return reader;
  }

  async readAll(
    tail: number,
    onBatch: (batch: LogBatch) => void | Promise<void>,
    onGap?: (partition: number) => void | Promise<void>,
  ): Promise<Reading> {
    await this.#doorbell.open();
    const extents = await this.#insist(() => readExtents(this.#pool, this.partitions, tail));
    const behind = new Map(extents.filter(isBehind).map((extent) => [extent.partition, extent.end]));
    let caughtUp: () => void = () => undefined;
    const end = new Promise<void>((resolve) => {
      caughtUp = resolve;
    });
    if (behind.size === 0) caughtUp();
    const onRead = (partition: number, position: Position) => {
      if (position >= (behind.get(partition) ?? '')) behind.delete(partition);
      if (behind.size === 0) caughtUp();
    };
    const pump = this.#pump('all', onBatch, onGap, onRead);
    const reading = this.#reading(pump, async () => caughtUp());
    for (const { partition, from } of extents) pump.add(partition, from);
    await end;
    return reading;
  }

  async join(group: string, member: string, handler: GroupHandler): Promise<Reading> {
    await this.#doorbell.open();
    const pump = this.#pump(
      group,
      (batch) => handler.batch(batch),
      (partition) => handler.gap(partition),
    );
    const one = new GroupMember({
      group,
      member,
      partitions: this.partitions,
      handler,
      membership: this.#membership,
      pump,
      log: this.#log,
    });
    await this.#membership.join(group, member, (living) => one.onMembers(living));
    return this.#reading(pump, async () => {
      await one.stop();
      await this.#membership.leave(group, member);
    });
  }

  locate(partition: number, position: Position): Promise<Cursor> {
    return this.#inTurn(async () => {
      await this.#assertHeld(partition, position);
      return { position, offset: '' };
    });
  }

  readFrom(partition: number, { position }: Cursor): Promise<LogBatch | undefined> {
    return this.#inTurn(async () => {
      const records = await fetchPage(this.#pool, partition, position);
      // Looked up after the records: what was trimmed before them shows.
      await this.#assertHeld(partition, position);
      const last = records.at(-1);
      return last && { partition, records, cursor: { position: last.position, offset: '' } };
    });
  }

  async behind(cursors: ReadonlyMap<number, Cursor>): Promise<ReadonlyMap<number, number>> {
    const places = [...cursors].map(([partition, { position }]) => ({ partition, position }));
    return places.length === 0 ? new Map() : countBehind(this.#pool, places);
  }

  async close(): Promise<void> {
    this.#closed.abort();
    await Promise.all([...this.#readings].map((reading) => reading.stop()));
    await this.#membership.close();
    await this.#doorbell.close();
    await this.#pool.end();
    await this.#finder.close();
  }

  #inTurn<T>(read: () => Promise<T>): Promise<T> {
    const turn = this.#paging.then(() => {
      if (this.#closed.signal.aborted) throw new Error('the log was closed');
      return read();
    });
    this.#paging = turn.catch(() => undefined);
    return turn;
  }

  async #assertHeld(partition: number, position: Position): Promise<void> {
    if (await holdsBehind(this.#pool, partition, position)) return;
    throw new CongerError('PositionGone', 'the log does not hold the position any more');
  }

  #pump(
    who: string,
    deliver: (batch: LogBatch) => void | Promise<void>,
    onGap?: (partition: number) => void | Promise<void>,
    onRead?: (partition: number, position: Position) => void,
  ): Pump {
    return new Pump({
      fetch: (places) => fetchRecords(this.#pool, places),
      deliver,
      gap: async (partition, position) => {
        this.#log.error({ who, partition, position }, 'the log does not hold all that comes behind');
        await onGap?.(partition);
      },
      ...(onRead === undefined ? {} : { onRead }),
      log: this.#log,
    });
  }

  /** Connects the pump to the bell until it is stopped; `ending` runs first. */
  #reading(pump: Pump, ending: () => Promise<void>): Reading {
    const silence = this.#doorbell.on(LOG_CHANNEL, (payload) => pump.ring(parsePartitions(payload)));
    let stopped: Promise<void> | undefined;
    const stop = async () => {
      await ending();
      silence();
      await pump.close();
      this.#readings.delete(reading);
    };
    const reading: Reading = {
      stop: () => {
        stopped ??= stop();
        return stopped;
      },
    };
    this.#readings.add(reading);
    return reading;
  }

  /** Tries until it succeeds, or the reader is closed. */
  async #insist<T>(work: () => Promise<T>): Promise<T> {
    const backoff = new Backoff(100, 2_000);
    for (;;) {
      try {
        return await work();
      } catch (error) {
        if (this.#closed.signal.aborted) throw error;
        this.#log.warn({ err: error }, `cannot read the log: ${messageOf(error)}`);
        await backoff.pause(this.#closed.signal);
      }
    }
  }
}

function isBehind(extent: Extent): boolean {
  return extent.from < extent.end;
}

/** The partitions in a bell's payload; undefined: any. */
function parsePartitions(payload: string | undefined): number[] | undefined {
  return payload === undefined || payload === '' ? undefined : payload.split(',').map(Number);
}
