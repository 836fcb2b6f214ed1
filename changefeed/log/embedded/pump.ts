import { messageOf } from '../../../runtime/errors.ts';
import type { Logger } from '../../../runtime/log.ts';
import { Backoff } from '../../backoff.ts';
import type { LogBatch, LogRecord, Position } from '../../types.ts';
import type { Fetched, Place } from './rows.ts';

export interface PumpOptions {
  /** What there is behind each place; a partition that answers `limit` records may have more. */
  readonly fetch: (places: readonly Place[]) => Promise<ReadonlyMap<number, Fetched>>;
  readonly limit: number;
  readonly deliver: (batch: LogBatch) => void | Promise<void>;
  /** Told where records behind the last ones are gone, before what comes behind the gap. */
  readonly gap: (partition: number, position: Position) => void | Promise<void>;
  readonly log: Logger;
}

interface Lane {
  position: Position;
  /** The gap behind `position` was told. */
  gapTold: boolean;
  /** There may be records behind `position`. */
  dirty: boolean;
  /** The delivery in progress. */
  busy: Promise<void> | undefined;
  readonly removed: AbortController;
}

/**
 * Reads partitions whenever the bell has rung for them, all in one query, until they are dry. Each partition has one
 * batch in delivery at a time, goes on behind it only when it was taken, and does not wait for other partitions.
 */
export class Pump {
  readonly #options: PumpOptions;
  readonly #lanes = new Map<number, Lane>();
  readonly #closed = new AbortController();
  #running = false;
  #fetching: Promise<void> | undefined;

  constructor(options: PumpOptions) {
    this.#options = options;
  }

  add(partition: number, position: Position): void {
    const removed = new AbortController();
    this.#lanes.set(partition, { position, gapTold: false, dirty: true, busy: undefined, removed });
    this.#kick();
  }

  /** Resolves when the batch in delivery, if any, is over; nothing more is delivered from the partition. */
  async remove(partition: number): Promise<void> {
    const lane = this.#lanes.get(partition);
    this.#lanes.delete(partition);
    lane?.removed.abort();
    await lane?.busy;
  }

  /** There may be something new in these partitions, or in any. */
  ring(partitions?: readonly number[]): void {
    for (const partition of partitions ?? this.#lanes.keys()) {
      const lane = this.#lanes.get(partition);
      if (lane !== undefined) lane.dirty = true;
    }
    this.#kick();
  }

  async close(): Promise<void> {
    this.#closed.abort();
    await Promise.all([...this.#lanes.keys()].map((partition) => this.remove(partition)));
    await this.#fetching;
  }

  #kick(): void {
    if (this.#running || this.#closed.signal.aborted) return;
    this.#running = true;
    this.#fetching = this.#fetchAll();
  }

  async #fetchAll(): Promise<void> {
    const { fetch, limit, log } = this.#options;
    const backoff = new Backoff(50, 2_000);
    while (!this.#closed.signal.aborted) {
      const due = [...this.#lanes].filter(([, lane]) => lane.dirty && lane.busy === undefined);
      if (due.length === 0) break;
      for (const [, lane] of due) lane.dirty = false;
      try {
        const found = await fetch(due.map(([partition, lane]) => ({ partition, position: lane.position })));
        for (const [partition, lane] of due) {
          const { records, gap } = found.get(partition) ?? { records: [], gap: false };
          if (records.length === limit) lane.dirty = true;
          const untold = gap && !lane.gapTold;
          if (lane.removed.signal.aborted || (records.length === 0 && !untold)) continue;
          lane.busy = this.#deliver(partition, lane, records, untold);
        }
        backoff.reset();
      } catch (error) {
        for (const [, lane] of due) lane.dirty = true;
        log.warn({ err: error }, `cannot read the log: ${messageOf(error)}`);
        await backoff.pause(this.#closed.signal);
      }
    }
    this.#running = false;
  }

  async #deliver(partition: number, lane: Lane, records: readonly LogRecord[], gap: boolean): Promise<void> {
    const { signal } = lane.removed;
    const last = records.at(-1);
    let taken = true;
    if (gap) {
      const { position } = lane;
      taken = await this.#offer(partition, position, () => this.#options.gap(partition, position), signal);
      lane.gapTold = taken;
    }
    if (taken && last !== undefined) {
      const cursor = { position: last.position, offset: '' };
      const batch: LogBatch = { partition, records, cursor };
      const first = records[0]?.position ?? cursor.position;
      taken = await this.#offer(partition, first, () => this.#options.deliver(batch), signal);
      if (taken) {
        lane.position = cursor.position;
        lane.gapTold = false;
      }
    }
    lane.busy = undefined;
    if (taken && lane.dirty) this.#kick();
  }

  /** Offers something until it is taken, or the partition is removed. */
  async #offer(
    partition: number,
    position: Position,
    offer: () => void | Promise<void>,
    removed: AbortSignal,
  ): Promise<boolean> {
    const backoff = new Backoff(50, 5_000);
    while (!removed.aborted) {
      try {
        await offer();
        return true;
      } catch (error) {
        this.#options.log.warn(
          { err: error, partition, position },
          `a batch was not taken, and will be offered again: ${messageOf(error)}`,
        );
        await backoff.pause(removed);
      }
    }
    return false;
  }
}
