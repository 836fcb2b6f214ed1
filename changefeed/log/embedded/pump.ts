import { messageOf } from '../../../runtime/errors.ts';
import type { Logger } from '../../../runtime/log.ts';
import { Backoff } from '../../backoff.ts';
import type { LogBatch, LogRecord, Position } from '../../types.ts';
import { Whole } from '../../whole.ts';
import type { Fetched, Place } from './rows.ts';

export interface PumpOptions {
  /** What there is behind each place, or the first of it. */
  readonly fetch: (places: readonly Place[]) => Promise<ReadonlyMap<number, Fetched>>;
  readonly deliver: (batch: LogBatch) => void | Promise<void>;
  /** Told where records behind the last ones are gone, before what comes behind the gap. */
  readonly gap: (partition: number, position: Position) => void | Promise<void>;
  /** Everything up to the position was taken, or waits for the rest of its transaction. */
  readonly onRead?: (partition: number, position: Position) => void;
  readonly log: Logger;
}

interface Lane {
  /** Of the last record that was read; '' before the first there ever was; undefined: yet to begin, at what there is. */
  position: Position | undefined;
  /** The last of what was read, whose transaction has more to come. */
  held: readonly LogRecord[];
  readonly whole: Whole;
  /** The gap behind what was read was told. */
  gapTold: boolean;
  /** There may be records behind what was read. */
  dirty: boolean;
  /** The delivery in progress. */
  busy: Promise<void> | undefined;
  readonly removed: AbortController;
}

/**
 * Reads partitions whenever the bell has rung for them, all in one query, until they are dry. Each partition has one
 * batch in delivery at a time, goes on behind it only when it was taken, and does not wait for other partitions. What a
 * transaction has in a partition is in one batch, unless it is too large.
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

  /** Reads the partition from behind a position, or without one from the oldest record that there is. */
  add(partition: number, position?: Position): void {
    this.#lanes.set(partition, {
      position,
      held: [],
      whole: new Whole(),
      gapTold: false,
      dirty: true,
      busy: undefined,
      removed: new AbortController(),
    });
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
    const { fetch, log } = this.#options;
    const backoff = new Backoff(50, 2_000);
    while (!this.#closed.signal.aborted) {
      const due = [...this.#lanes].filter(([, lane]) => lane.dirty && lane.busy === undefined);
      if (due.length === 0) break;
      for (const [, lane] of due) lane.dirty = false;
      try {
        const found = await fetch(
          due.map(([partition, lane]) => ({ partition, position: lane.position ?? '' })),
        );
        for (const [partition, lane] of due) {
          const fetched = found.get(partition);
          if (fetched === undefined || lane.removed.signal.aborted) continue;
          if (fetched.more) lane.dirty = true;
          lane.busy = this.#deliver(partition, lane, fetched).then((taken) => {
            lane.busy = undefined;
            if (taken && lane.dirty) this.#kick();
          });
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

  /** Hands over what a fetch has found, as far as transactions are whole. Answers whether it was taken. */
  async #deliver(partition: number, lane: Lane, found: Fetched): Promise<boolean> {
    const { records, gap, trimmed } = found;
    const { signal } = lane.removed;
    if (lane.position === undefined) {
      lane.position = trimmed;
    } else if (gap && !lane.gapTold) {
      // What it waited for is gone.
      lane.whole.pass();
      if (!(await this.#hand(partition, lane, lane.held))) return false;
      lane.held = [];
      const { position } = lane;
      const tell = () => this.#options.gap(partition, position);
      lane.gapTold = await this.#offer(partition, position, tell, signal);
      if (!lane.gapTold) return false;
    }
    const last = records.at(-1);
    if (last === undefined) return true;
    let waiting = 0;
    for (const record of records) waiting = lane.whole.add(record);
    const all = [...lane.held, ...records];
    const ready = all.length - waiting;
    if (!(await this.#hand(partition, lane, all.slice(0, ready)))) return false;
    lane.held = all.slice(ready);
    lane.position = last.position;
    lane.gapTold = false;
    this.#options.onRead?.(partition, last.position);
    return true;
  }

  async #hand(partition: number, lane: Lane, records: readonly LogRecord[]): Promise<boolean> {
    const [first, last] = [records[0], records.at(-1)];
    if (first === undefined || last === undefined) return true;
    const batch: LogBatch = { partition, records, cursor: { position: last.position, offset: '' } };
    const { signal } = lane.removed;
    return this.#offer(partition, first.position, () => this.#options.deliver(batch), signal);
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
