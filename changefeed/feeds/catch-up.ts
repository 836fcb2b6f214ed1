import { CongerError, isCongerError } from '../../runtime/errors.ts';
import { epochOf, START } from '../position.ts';
import { isVisible, parseSnapshot, type Snapshot } from '../snapshot.ts';
import type { Change, Cursor, Position } from '../types.ts';
import { encodeCursor, type FeedCursor, type FeedPlace } from './cursor.ts';
import type { Pages } from './pages.ts';
import { gone } from './reader.ts';
import type { Ring } from './ring.ts';

/**
 * One reader's way through the log, from a place that the ring does not reach back to, until it does: every change
 * after the place once, in the order of each partition. Holds one page at most, and nothing between two of them.
 */
export class CatchUp {
  readonly #ring: Ring;
  readonly #pages: Pages;
  readonly #epoch: number;
  readonly #positions: Position[];
  readonly #snapshotText: string;
  readonly #snapshot: Snapshot | undefined;
  readonly #cursors = new Map<number, Cursor>();
  /** Of these partitions the log was found to hold everything after the place. */
  readonly #held = new Set<number>();
  /** The page that was read last: its partition's next one comes once all of it was passed. */
  #page: { readonly partition: number; readonly last: Position; readonly next: Cursor } | undefined;
  #time: number;

  /** @throws CongerError PositionGone where `place` is of another log or epoch */
  constructor(ring: Ring, pages: Pages, place: FeedPlace) {
    if (!ring.knows(place)) throw gone('the cursor is of another log');
    this.#ring = ring;
    this.#pages = pages;
    this.#epoch = ring.epoch;
    this.#positions = [...place.positions];
    this.#time = place.time;
    this.#snapshotText = place.snapshot;
    this.#snapshot = place.snapshot === '' ? undefined : parseSnapshot(place.snapshot);
  }

  /** Finds the place in the log, as far as the ring does not hold it. @throws CongerError as `page` */
  async locate(): Promise<void> {
    for (const partition of this.#behind()) await this.#cursor(partition);
  }

  /** Whether the ring holds the rest. */
  get done(): boolean {
    return this.#ring.epoch === this.#epoch && this.#behind().length === 0;
  }

  get held(): ReadonlySet<number> {
    return this.#held;
  }

  place(): FeedPlace {
    return { time: this.#time, positions: [...this.#positions], snapshot: this.#snapshotText };
  }

  cursor(): FeedCursor {
    return encodeCursor(this.place());
  }

  /**
   * The next changes, of the partition that is furthest behind. Each is passed with `pass`; what was not is answered again.
   * @throws CongerError PositionGone where the log has dropped some, or they cannot be read, or at a new epoch;
   * ServiceUnavailable where the log does not answer
   */
  async page(): Promise<readonly Change[]> {
    if (this.#ring.epoch !== this.#epoch) throw missed();
    const [partition] = this.#behind().sort((a, b) => (this.#position(a) < this.#position(b) ? -1 : 1));
    if (partition === undefined) return [];
    const cursor = await this.#cursor(partition);
    const page = await answered(this.#pages.read(partition, cursor));
    if (page === undefined) {
      if (this.#behind().includes(partition)) throw gone('the log has lost changes');
      return [];
    }
    const passed = this.#position(partition);
    const records = page.records.filter(({ position }) => position > passed);
    const last = records.at(-1)?.position;
    if (last === undefined) this.#cursors.set(partition, page.next);
    else this.#page = { partition, last, next: page.next };
    return records.map((record) => {
      if (epochOf(record.position) > this.#epoch) throw missed();
      try {
        return page.change(record);
      } catch {
        throw gone('a change cannot be read');
      }
    });
  }

  /** Goes by a change; answers whether it is to be told, which it is not where the reader's snapshot has it. */
  pass(change: Change): boolean {
    this.#positions[change.partition] = change.position;
    this.#time = Math.max(this.#time, change.time);
    const page = this.#page;
    if (page?.partition === change.partition && page.last === change.position) {
      this.#cursors.set(page.partition, page.next);
    }
    return this.#snapshot === undefined || !isVisible(change.xid, this.#snapshot);
  }

  async #cursor(partition: number): Promise<Cursor> {
    const known = this.#cursors.get(partition);
    if (known !== undefined) return known;
    const cursor = await answered(this.#pages.locate(partition, this.#position(partition)));
    this.#cursors.set(partition, cursor);
    this.#held.add(partition);
    return cursor;
  }

  #behind(): number[] {
    return this.#ring.behind({ time: this.#time, positions: this.#positions, snapshot: '' }, this.#held);
  }

  #position(partition: number): Position {
    return this.#positions[partition] ?? START;
  }
}

/** A log that does not answer is not the reader's fault, and may answer soon. */
async function answered<T>(read: Promise<T>): Promise<T> {
  try {
    return await read;
  } catch (cause) {
    if (isCongerError(cause)) throw cause;
    throw new CongerError('ServiceUnavailable', 'the log cannot be read; resume from the last cursor', {
      cause,
    });
  }
}

function missed() {
  return gone('changes may have been missed');
}
