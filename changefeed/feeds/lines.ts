import type { FeedCursor } from './cursor.ts';

/** One line of a feed. Positions and cursors are opaque; times are in milliseconds since 1970. */
export type FeedLine = ChangeLine | SnapshotLine | SnapshotEnd | Bookmark | LastLine;

/**
 * A change. `leave` is a put of an object that matched the filter and does so no longer; `put` is one of an object that
 * matches now, whether it did before or not; `delete` one of an object that matched.
 */
export interface ChangeLine {
  readonly type: 'put' | 'delete' | 'leave';
  readonly resource: string;
  readonly bucket: string;
  readonly key: string;
  readonly etag: string | null;
  readonly value: unknown;
  readonly previous: unknown;
  readonly position: string;
  readonly partition: number;
  readonly time: number;
  readonly requestId: string | null;
  readonly traceparent: string | null;
  readonly cursor: FeedCursor;
}

/** An object that there is, and that matches the filter. */
export interface SnapshotLine {
  readonly type: 'snapshot';
  readonly resource: string;
  readonly bucket: string;
  readonly key: string;
  readonly etag: string;
  readonly value: unknown;
}

export interface SnapshotEnd {
  readonly type: 'snapshot-end';
  readonly count: number;
  readonly cursor: FeedCursor;
}

/** Nothing for this reader up to the cursor. */
export interface Bookmark {
  readonly type: 'bookmark';
  readonly cursor: FeedCursor;
}

/** Why the feed ends. Without a cursor there is nothing to resume: the snapshot was not taken whole. */
export interface LastLine {
  readonly type: 'error';
  readonly code: string;
  readonly message: string;
  readonly cursor?: FeedCursor;
}
