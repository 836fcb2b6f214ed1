import { epochOf, epochOfAll, FIRST_EPOCH, START } from '../position.ts';
import type { Change, Position } from '../types.ts';
import { CursorBase, type FeedPlace } from './cursor.ts';

export interface RingLimits {
  readonly maxChanges: number;
  /** Bounds the length of the bodies together, in bytes. */
  readonly maxBytes: number;
  /**
   * How long before the start of reading a place may be from, in a partition of which the log had nothing left, in ms.
   * Must be less than the log keeps a record: then what the log has dropped is older than the place.
   */
  readonly resumeMs: number;
}

/**
 * Where reading a partition began: before the first record that there ever was (`whole`), behind others that were there
 * or had been dropped (`tail`), or where all had been dropped (`emptied`), which only age does.
 */
export type Beginning = 'whole' | 'tail' | 'emptied';

/**
 * The recent changes of all partitions, in the order in which they came, numbered by a sequence. It holds every
 * change of a partition after the partition's floor; a place that it cannot prove to reach is not reached.
 */
export class Ring {
  readonly #limits: RingLimits;
  readonly #last: Position[];
  readonly #floor: Position[];
  /** What lies before the floor. */
  readonly #begins: Beginning[];
  #entries: ({ readonly change: Change; readonly bytes: number } | undefined)[] = [];
  /** Index of the oldest entry; the room of those before it, which are gone, is cut off now and then. */
  #head = 0;
  #first = 0;
  #bytes = 0;
  #time = 0;
  #epoch = FIRST_EPOCH;
  #began = 0;
  #coded: { readonly sequence: number; readonly time: number; readonly base: CursorBase } | undefined;

  constructor(partitions: number, limits: RingLimits) {
    this.#limits = limits;
    this.#last = new Array<Position>(partitions).fill(START);
    this.#floor = [...this.#last];
    this.#begins = new Array<Beginning>(partitions).fill('whole');
  }

  get partitions(): number {
    return this.#last.length;
  }

  /** The sequence of the oldest change held. */
  get first(): number {
    return this.#first;
  }

  /** The sequence that the next change will have. */
  get next(): number {
    return this.#first + this.#entries.length - this.#head;
  }

  /** The change with this sequence, where it is held. */
  get(sequence: number): Change | undefined {
    return sequence < this.#first ? undefined : this.#entries[this.#head + sequence - this.#first]?.change;
  }

  /** The log's epoch, as far as it has been read. */
  get epoch(): number {
    return this.#epoch;
  }

  /** When the newest change was committed, or else when reading began; milliseconds since 1970. */
  get time(): number {
    return this.#time;
  }

  last(partition: number): Position {
    return this.#last[partition] ?? START;
  }

  /** The place behind the newest change. */
  end(): FeedPlace {
    return { time: this.#time, positions: [...this.#last], snapshot: '' };
  }

  /** Reading has caught up, at `time`, and began there in each partition. */
  caughtUp(time: number, begins: readonly Beginning[]): void {
    this.#began = time;
    this.#time = Math.max(this.#time, time);
    for (const [partition, begun] of begins.entries())
      if (this.#begins[partition] === 'whole') this.#begins[partition] = begun;
  }

  /** Takes the next change of its partition; `bytes` is its body's length. */
  append(change: Change, bytes: number): void {
    if (this.last(change.partition) === START) this.#floor[change.partition] = change.position;
    this.#last[change.partition] = change.position;
    this.#epoch = Math.max(this.#epoch, epochOf(change.position));
    this.#time = Math.max(this.#time, change.time);
    this.#entries.push({ change, bytes });
    this.#bytes += bytes;
    while (this.next - this.#first > this.#limits.maxChanges || this.#bytes > this.#limits.maxBytes)
      this.#evict();
  }

  /**
   * Passes a record that cannot be kept. Nobody may go by it unawares: it overtakes every reader, and who stands before
   * it is not reached any more.
   */
  skip(partition: number, position: Position): void {
    while (this.next > this.#first) this.#evict();
    this.#first++;
    this.#last[partition] = position;
    this.#floor[partition] = position;
    this.#epoch = Math.max(this.#epoch, epochOf(position));
    this.#begins[partition] = 'tail';
  }

  /** Changes of the partition were lost: nobody who stands before what comes next may go on. */
  lose(partition: number): void {
    while (this.next > this.#first) this.#evict();
    this.#first++;
    this.#last[partition] = START;
    this.#floor[partition] = START;
    this.#begins[partition] = 'tail';
  }

  /** Whether `place` is one of this log, and of its epoch: between two epochs is a gap. */
  knows(place: FeedPlace): boolean {
    return place.positions.length === this.partitions && epochOfAll(place.positions) === this.#epoch;
  }

  /** Whether everything after `place` is held, or is yet to come. */
  reaches(place: FeedPlace, held?: ReadonlySet<number>): boolean {
    return this.knows(place) && this.behind(place, held).length === 0;
  }

  /**
   * The partitions of which it does not hold everything after `place`. Of the partitions in `held` the log itself held
   * everything after the place at some time after this ring had caught up. A position before all that the log ever had
   * may be one of another log, so there the log has to be asked.
   */
  behind(place: FeedPlace, held?: ReadonlySet<number>): number[] {
    const recent = place.time >= this.#began - this.#limits.resumeMs;
    return [...place.positions.keys()].filter((partition) => {
      const floor = this.#floor[partition] ?? START;
      const position = place.positions[partition] ?? START;
      if (floor !== START && position >= floor) return false;
      const begun = this.#begins[partition];
      if (begun === 'whole') return !(position === START || held?.has(partition) === true);
      return !(begun === 'emptied' && recent);
    });
  }

  /** The cursors of those who stand in all partitions where the changes before `sequence` have brought them. */
  cursors(sequence: number, time: number, positions: readonly Position[]): CursorBase {
    if (this.#coded?.sequence === sequence && this.#coded.time === time) return this.#coded.base;
    const base = new CursorBase(time, positions);
    this.#coded = { sequence, time, base };
    return base;
  }

  #evict(): void {
    const entry = this.#entries[this.#head];
    if (entry === undefined) return;
    const { partition, position } = entry.change;
    if (position > (this.#floor[partition] ?? START)) this.#floor[partition] = position;
    this.#begins[partition] = 'tail';
    this.#bytes -= entry.bytes;
    this.#entries[this.#head] = undefined;
    this.#head++;
    this.#first++;
    if (this.#head > 1024 && this.#head * 2 > this.#entries.length) {
      this.#entries = this.#entries.slice(this.#head);
      this.#head = 0;
    }
  }
}
