import type { CongerError } from '../../runtime/errors.ts';
import type { Broadcast } from '../broadcast.ts';
import type { Change } from '../types.ts';
import type { CatchUp } from './catch-up.ts';
import type { Cohorts } from './cohort.ts';
import type { FeedCursor } from './cursor.ts';

/** What a reader is sent. Resuming from `cursor` goes on right after the message. */
export type FeedMessage<Item, Event> =
  /** A part of the snapshot, which has `count` items; the cursor stands for something with the `last` one. */
  | {
      readonly type: 'snapshot';
      readonly items: readonly Item[];
      readonly count: number;
      readonly last: boolean;
      readonly cursor: FeedCursor;
    }
  | { readonly type: 'event'; readonly event: Event; readonly cursor: FeedCursor }
  /** Nothing for this reader up to the cursor. */
  | { readonly type: 'bookmark'; readonly cursor: FeedCursor }
  /** The last message: why the feed ends. No cursor where the snapshot was not wholly taken: begin anew. */
  | { readonly type: 'end'; readonly error: CongerError; readonly cursor: FeedCursor | undefined };

export interface FeedSnapshot<Item> {
  readonly items: readonly Item[];
  /** `snapshot` is the PostgreSQL snapshot that the items were read in (kvstore's `find`). */
  readonly found: { readonly snapshot: string };
  /** Where the broadcast stood before it was read; absent: where it stood when the feed was opened. */
  readonly since?: FeedCursor;
}

export interface FeedOptions<Item, Event> {
  readonly broadcast: Broadcast;
  /** Reads everything that the feed is about. */
  readonly snapshot?: (() => Promise<FeedSnapshot<Item>>) | undefined;
  /** Called once the snapshot is sent, or the feed has ended before. */
  readonly snapshotOver?: (() => void) | undefined;
  /** The event that a change is to this reader, or undefined where it is none. */
  readonly select: (change: Change) => Event | undefined;
  /** Readers with the same `select`, who are told together while they are at rest. */
  readonly cohorts?: Cohorts<Event> | undefined;
  /**
   * Resume right after this cursor, which the ring must reach, or from what `Broadcast.resume` has found. Where it is
   * gone: a snapshot if `snapshot` is given, else PositionGone.
   */
  readonly since?: FeedCursor | CatchUp | undefined;
  /** Passes a message on. A promise holds the next message back; false or a rejection says that the reader is gone. */
  readonly send: (message: FeedMessage<Item, Event>) => boolean | Promise<boolean>;
  /** A bookmark is sent when nothing was for so long, and at the latest after twice as long, in ms (10,000). */
  readonly bookmarkMs?: number;
  /** How long a reader may take nothing of the log, or of a page of its snapshot, in ms (30,000). */
  readonly stuckMs?: number;
}
