import { CongerError } from '../../runtime/errors.ts';
import { epochOf } from '../position.ts';
import { isVisible, parseSnapshot, type Snapshot } from '../snapshot.ts';
import type { Change, Position } from '../types.ts';
import { CursorBase, type FeedCursor, type FeedPlace } from './cursor.ts';
import type { Ring } from './ring.ts';

/**
 * One reader's way through the ring: every change after the place where it began, once, in the order of each
 * partition. Changes stay in the ring until they are read, so that a reader costs no memory of its own; one that the
 * ring has overtaken has missed something and gets nothing more, and neither does one that comes to a new epoch, which
 * follows a gap.
 */
export class RingReader {
  readonly #ring: Ring;
  #positions: Position[];
  #epoch: number;
  #sequence: number;
  #time: number;
  #snapshotText: string;
  #snapshot: Snapshot | undefined;
  /** Stands in each partition where the ring's changes have brought it, as most readers do. */
  #aligned: boolean;

  /**
   * Begins right behind `since`, or behind the newest change.
   * @param held partitions of which the log holds everything after `since` (Ring.behind)
   * @throws CongerError PositionGone where the ring does not reach back to `since`
   */
  constructor(ring: Ring, since?: FeedPlace, held?: ReadonlySet<number>) {
    if (since !== undefined && !ring.reaches(since, held)) throw gone('the cursor is no longer held');
    const place = since ?? ring.end();
    this.#ring = ring;
    this.#epoch = ring.epoch;
    this.#positions = [...place.positions];
    this.#sequence = since === undefined ? ring.next : ring.first;
    this.#time = place.time;
    this.#aligned = since === undefined;
    this.#snapshotText = place.snapshot;
    this.#snapshot = place.snapshot === '' ? undefined : parseSnapshot(place.snapshot);
  }

  /** Counts what this reader has gone by. */
  get sequence(): number {
    return this.#sequence;
  }

  /** How many changes the ring holds that this reader has not gone by. */
  get lag(): number {
    return this.#ring.next - this.#sequence;
  }

  /** Whether the ring has dropped what this reader should have read next. */
  get overtaken(): boolean {
    return this.#sequence < this.#ring.first;
  }

  /** Whether it has read everything, and stands where everybody does who has. */
  get resting(): boolean {
    return this.#aligned && this.lag === 0 && this.#time === this.#ring.time;
  }

  /** The PostgreSQL snapshot that it began with; '' without one. */
  get snapshot(): string {
    return this.#snapshotText;
  }

  /** Another reader at the same place. */
  fork(): RingReader {
    const other = new RingReader(this.#ring);
    other.#positions = [...this.#positions];
    other.#epoch = this.#epoch;
    other.#sequence = this.#sequence;
    other.#time = this.#time;
    other.#aligned = this.#aligned;
    other.#snapshotText = this.#snapshotText;
    other.#snapshot = this.#snapshot;
    return other;
  }

  /** Leaves out, from here on, the changes that a read with this PostgreSQL snapshot saw. */
  leaveOut(snapshot: string): void {
    this.#snapshot = parseSnapshot(snapshot);
    this.#snapshotText = snapshot;
  }

  /**
   * The next change, or undefined where none is there yet.
   * @throws CongerError SlowReader once the ring has overtaken this reader, PositionGone at a new epoch
   */
  next(): Change | undefined {
    for (;;) {
      if (this.overtaken) throw overtaken();
      const change = this.#ring.get(this.#sequence);
      if (change === undefined) {
        if (!this.#aligned) this.#align();
        return undefined;
      }
      if (epochOf(change.position) > this.#epoch) throw gone('changes may have been missed');
      this.#sequence++;
      // A place may be ahead of this process: another instance, which had read on, has given it.
      if (change.position <= (this.#positions[change.partition] ?? '')) continue;
      this.#positions[change.partition] = change.position;
      this.#time = Math.max(this.#time, change.time);
      if (this.#snapshot !== undefined && isVisible(change.xid, this.#snapshot)) continue;
      return change;
    }
  }

  /** Where this reader stands: behind the last change that `next` answered or left out. */
  cursor(): FeedCursor {
    const base = this.#aligned
      ? this.#ring.cursors(this.#sequence, this.#time, this.#positions)
      : new CursorBase(this.#time, this.#positions);
    return base.with(this.#snapshotText);
  }

  #align(): void {
    this.#aligned = this.#positions.every((position, partition) => position === this.#ring.last(partition));
    if (this.#aligned) this.#time = Math.max(this.#time, this.#ring.time);
  }
}

export function gone(why: string): CongerError {
  return new CongerError('PositionGone', `${why}; take a snapshot and go on from there`);
}

/** The error of a reader that the ring has overtaken. */
export function overtaken(): CongerError {
  return new CongerError('SlowReader', 'the feed went on without this reader; resume from the last cursor');
}
