import type { Position } from '../../changefeed/types.ts';

/** What a run did and saw. The checker judges it, and nothing else; it is kept as JSON when a run has failed. */
export interface History {
  readonly writes: readonly Write[];
  /** All that the log holds of the run's bucket, by partition, in the log's order. */
  readonly log: readonly (readonly Logged[])[];
  /** The objects in the store at the end: the id of each key's value. */
  readonly store: Readonly<Record<string, string>>;
  /** What the consumers' ledger says was applied, by partition, in the order in which it was. */
  readonly applied: readonly (readonly Told[])[];
  readonly streams: readonly Stream[];
}

/** One call to the KV tier: a single write, or a batch that happens whole or not at all. */
export interface Write {
  readonly writer: number;
  /** Milliseconds since the run began, on one clock. */
  readonly invoked: number;
  readonly ended: number;
  /** `failed`: certainly not done; `unknown`: may have been done, and may be done yet. */
  readonly outcome: 'ok' | 'failed' | 'unknown';
  readonly error?: string;
  readonly ops: readonly WriteOp[];
}

export interface WriteOp {
  readonly op: 'put' | 'delete';
  readonly key: string;
  /** Of the value; no two writes share one. null on a delete. */
  readonly id: string | null;
  /** The id of the value that the write wants to find there; null: none; absent: whatever there is. */
  readonly wants?: string | null;
}

/** A change as an observer saw it. */
export interface Told {
  readonly partition: number;
  readonly position: Position;
  readonly key: string;
  readonly op: 'put' | 'delete';
  /** Of the new value; null on a delete. */
  readonly id: string | null;
  /** Of the value before; null where there was none. */
  readonly previous: string | null;
  /** Of a consumer's: which effect it was applied with. */
  readonly effect?: number;
}

/** A change as the log holds it. */
export interface Logged extends Told {
  readonly index: number;
  readonly count: number;
}

/** What the store answered to a listener that had been told of a change, and then read the object. */
export interface Read {
  readonly partition: number;
  /** Of the change. */
  readonly position: Position;
  readonly key: string;
  /** Of the value that was there; null: none. */
  readonly id: string | null;
}

/**
 * One connection to a feed, from its first line to its last. The streams of one listener follow each other, each from
 * the last cursor of the one before; a replay is a stream that goes on from a cursor of long ago.
 */
export interface Stream {
  readonly listener: string;
  readonly kind: 'follow' | 'snapshot' | 'replay' | 'idle';
  /** The positions of the cursor that it went on from; absent: it began with what is to come, or with a snapshot. */
  readonly since?: readonly Position[];
  /** Key and id of each object of the snapshot that it began with. */
  readonly snapshot?: Readonly<Record<string, string>>;
  readonly told: readonly Told[];
  readonly reads?: readonly Read[];
  /** The positions of each cursor that came, and how many changes had been told before it, or with it. */
  readonly cursors: readonly { readonly told: number; readonly positions: readonly Position[] }[];
  /** The service has said that the position is gone, so that the listener began anew. */
  readonly gone?: boolean;
  /** What the service refused, where it did: no listener may be refused. */
  readonly refused?: string;
}

/** Which transaction a change belongs to: epoch and commit LSN of its position. */
export function commitOf({ position }: Pick<Told, 'position'>): string {
  return position.slice(0, 25);
}
