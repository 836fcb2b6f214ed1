import { type Broadcast, ending } from '../broadcast.ts';
import type { Change } from '../types.ts';
import type { FeedCursor } from './cursor.ts';
import type { RingReader } from './reader.ts';

/** A reader at rest, as its cohort sees it. */
export interface Member<Event> {
  /** Sends an event. Who is not at rest thereafter has left the cohort when this returns. */
  tell(message: { readonly type: 'event'; readonly event: Event; readonly cursor: FeedCursor }): void;
  /** Ends the reader with this as its last message. */
  fail(error: unknown): void;
}

/**
 * Readers of one kind that stand at one place, at rest: they have been told everything. What comes is read from the ring
 * once for all of them, so that a reader costs its send and nothing else.
 */
export class Cohort<Event> {
  readonly #broadcast: Broadcast;
  readonly #select: (change: Change) => Event | undefined;
  readonly #lead: RingReader;
  readonly #members = new Set<Member<Event>>();
  readonly #leave: () => void;
  readonly #onEmpty: () => void;
  #telling = false;

  constructor(
    broadcast: Broadcast,
    select: (change: Change) => Event | undefined,
    lead: RingReader,
    onEmpty: () => void,
  ) {
    this.#broadcast = broadcast;
    this.#select = select;
    this.#lead = lead;
    this.#onEmpty = onEmpty;
    this.#leave = broadcast.onWake(() => this.wake());
  }

  cursor(): FeedCursor {
    return this.#lead.cursor();
  }

  /** Whether a reader that has read everything stands where this cohort does. */
  get resting(): boolean {
    return !this.#telling && this.#lead.resting;
  }

  add(member: Member<Event>): void {
    this.#members.add(member);
  }

  /** Lets a member go; answers its way on from here. */
  part(member: Member<Event>): RingReader {
    const reader = this.#lead.fork();
    if (this.#members.delete(member) && this.#members.size === 0) {
      this.#leave();
      this.#onEmpty();
    }
    return reader;
  }

  /** Tells all members what has come. */
  wake(): void {
    if (this.#telling) return;
    this.#telling = true;
    try {
      if (this.#broadcast.stopped) throw ending();
      for (let change = this.#lead.next(); change !== undefined; change = this.#lead.next()) {
        const event = this.#select(change);
        if (event === undefined) continue;
        const message = { type: 'event', event, cursor: this.#lead.cursor() } as const;
        for (const member of this.#members) member.tell(message);
      }
    } catch (error) {
      for (const member of this.#members) member.fail(error);
    } finally {
      this.#telling = false;
    }
  }
}

/** The cohorts of readers of one kind: one for each snapshot that readers began with, as their cursors tell it. */
export class Cohorts<Event> {
  readonly #select: (change: Change) => Event | undefined;
  readonly #bySnapshot = new Map<string, Cohort<Event>>();

  constructor(select: (change: Change) => Event | undefined) {
    this.#select = select;
  }

  /** Takes a reader in that has read everything; undefined where it goes its own way for now. */
  join(broadcast: Broadcast, member: Member<Event>, reader: RingReader): Cohort<Event> | undefined {
    if (!reader.resting) return undefined;
    const { snapshot } = reader;
    // It may not have been woken yet for what the reader has been told.
    this.#bySnapshot.get(snapshot)?.wake();
    const cohort = this.#bySnapshot.get(snapshot) ?? this.#begin(broadcast, reader);
    if (!cohort.resting) return undefined;
    cohort.add(member);
    return cohort;
  }

  #begin(broadcast: Broadcast, reader: RingReader): Cohort<Event> {
    const { snapshot } = reader;
    const cohort = new Cohort<Event>(broadcast, this.#select, reader, () =>
      this.#bySnapshot.delete(snapshot),
    );
    this.#bySnapshot.set(snapshot, cohort);
    return cohort;
  }
}
