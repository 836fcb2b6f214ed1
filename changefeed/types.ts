/** The changefeed's words (docs/03-changefeed.md). */

/**
 * The place of a change in the shard's commit order: `<epoch>-<commit LSN>-<index in the transaction>`, each in hex of
 * fixed width (8, 16, 8), so that positions compare as strings. Made by position.ts, and by nothing else.
 */
export type Position = string;

/** One committed put or delete of one object, as consumers see it. */
export interface Change<V = unknown> {
  /** Version of this message's schema. */
  readonly v: 1;
  readonly position: Position;
  readonly partition: number;
  /** The 64-bit transaction id, in decimal: with a read's snapshot it tells whether the read saw this change. */
  readonly xid: string;
  /** This change's index among its transaction's changes, and how many these are. */
  readonly index: number;
  readonly count: number;
  /** When it was committed, in milliseconds since 1970. */
  readonly time: number;
  readonly partitionKey: string;
  readonly bucket: string;
  readonly key: string;
  readonly op: 'put' | 'delete';
  /** The new etag; null on a delete. */
  readonly etag: string | null;
  /** The new value; null on a delete. */
  readonly value: V | null;
  /** The value before; null where there was none. */
  readonly previous: V | null;
  readonly requestId: string | null;
  readonly traceparent: string | null;
}

/** A change as the log keeps it: `body` is JSON and passes through as bytes (change.ts parses it). */
export interface LogRecord {
  readonly position: Position;
  readonly partition: number;
  readonly partitionKey: string;
  readonly xid: string;
  readonly index: number;
  readonly count: number;
  /** The index of the last change that the transaction has in this partition; may be absent on the last of all. */
  readonly last?: number;
  readonly time: number;
  readonly body: Buffer;
}

/** Where a reader stands in one partition. `offset` is the log's own (Kafka's offset; '' in the embedded log). */
export interface Cursor {
  readonly position: Position;
  readonly offset: string;
}

/**
 * Records of one partition, in order, with the cursor that is right behind them. What a transaction has in the partition
 * comes in one batch, up to a bound (whole.ts); pages of `readFrom` may end within.
 */
export interface LogBatch {
  readonly partition: number;
  readonly records: readonly LogRecord[];
  readonly cursor: Cursor;
}

/**
 * The capture's side of a log. One writer at a time: `open` takes the log over from any other writer.
 */
export interface LogWriter {
  /** Takes the log over and answers the last position of each partition ('' where it is empty). */
  open(): Promise<readonly Position[]>;
  /**
   * Appends in order; resolves once everything is durable; rejects with nothing or a prefix (of each partition) appended.
   * May be called again before: what is given then is appended behind what was given before, and not at all where that
   * fails.
   */
  append(records: readonly LogRecord[]): Promise<void>;
  close(): Promise<void>;
}

export interface Reading {
  stop(): Promise<void>;
}

/** Told of the partitions that this member of a group owns. Calls for one partition never overlap. */
export interface GroupHandler {
  /** The partition is now ours: answers where to go on from, or 'start' for the oldest record that the log holds. */
  assigned(partition: number): Promise<Cursor | 'start'>;
  /** Throwing ends nothing: the batch is offered again, after a pause. */
  batch(batch: LogBatch): Promise<void>;
  /**
   * Records behind the cursor are not in the log any more, or the log is another one: called before the batch that comes
   * behind the gap, and again where it throws, or where no batch was taken since the partition was assigned anew.
   */
  gap(partition: number): Promise<void>;
  /** The partition is no longer ours; nothing more comes for it. */
  revoked(partition: number): Promise<void>;
  /**
   * Members may have come or gone, also where no partition moves: told after every change of the group, first when this
   * member is in it, and at times where nothing has changed.
   */
  regrouped?(): void;
}

/** The readers' side of a log. */
export interface LogReader {
  readonly partitions: number;
  /**
   * Reads every partition from `tail` records before its end, and then what comes, until stopped. Batches of one
   * partition come in order, one at a time. Resolves once every partition has been read up to the end it had when the
   * call was made. Survives the loss of its connections. `onGap` is told where records behind the last ones are gone
   * unread, before what comes behind the gap.
   */
  readAll(
    tail: number,
    onBatch: (batch: LogBatch) => void | Promise<void>,
    onGap?: (partition: number) => void | Promise<void>,
  ): Promise<Reading>;
  /**
   * Joins the group: each partition is owned by one living member. When a member dies the others take over its
   * partitions within seconds. Ownership is advice, not proof: effects are fenced by the checkpoint's etag.
   */
  join(group: string, member: string, handler: GroupHandler): Promise<Reading>;
  /** How many records lie behind the cursor of each partition; repetitions, too, where the log may hold some. */
  behind(cursors: ReadonlyMap<number, Cursor>): Promise<ReadonlyMap<number, number>>;
  /**
   * The cursor behind a position, which may be one of another partition.
   * @throws CongerError PositionGone where records behind the position may have been dropped; so also where the partition
   * holds none up to it
   */
  locate(partition: number, position: Position): Promise<Cursor>;
  /**
   * One page of what a partition holds behind a cursor, in order and each record once: some hundreds of records or about
   * 1 MB, but at least one; undefined where it holds nothing more. Nothing is kept for the caller, who asks for the next
   * page when it can take it.
   * @throws CongerError PositionGone where records behind the cursor may have been dropped
   */
  readFrom(partition: number, cursor: Cursor): Promise<LogBatch | undefined>;
  close(): Promise<void>;
}
