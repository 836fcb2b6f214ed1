import type pg from 'pg';
import type { CallOptions } from './arguments.ts';
import type { Bucket } from './bucket.ts';
import { type Database, reading } from './database.ts';
import { overloaded } from './errors.ts';
import { exchange, textArray, timeLimit } from './exchange.ts';
import { type ObjectRow, objectColumns } from './rows.ts';
import { readingAtStandby } from './standby.ts';

/** Of one group. Each may be as large as a value can be. */
const maxRows = 32;
/** Of one bucket. */
const maxWaiting = 4096;
const maxGroupsPerBucket = 2;

interface Waiting {
  readonly row: Promise<ObjectRow | undefined>;
  readonly resolve: (row: ObjectRow | undefined) => void;
  readonly reject: (error: unknown) => void;
}

interface Lane {
  /** By key; reads of one key that wait at the same time are one. */
  readonly waiting: Map<string, Waiting>;
  groups: number;
}

function waiting(): Waiting {
  let settle: Pick<Waiting, 'resolve' | 'reject'> | undefined;
  const row = new Promise<ObjectRow | undefined>((resolve, reject) => {
    settle = { resolve, reject };
  });
  if (settle === undefined) throw new Error('a promise has not run its executor');
  return { row, ...settle };
}

function take(from: Map<string, Waiting>): ReadonlyMap<string, Waiting> {
  const group = new Map<string, Waiting>();
  for (const [key, read] of from) {
    if (group.size === maxRows) break;
    group.set(key, read);
    from.delete(key);
  }
  return group;
}

/**
 * Gathers concurrent reads of single objects into one statement a bucket: what arrives while a bucket has two of them
 * in flight goes together as soon as one ends. A read that finds none in flight goes at once.
 *
 * A read's statement starts after the read was asked for, so it sees every write that was acknowledged before.
 */
export class GroupRead {
  readonly #database: Database;
  readonly #lanes = new Map<Bucket, Lane>();
  #scheduled = false;

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * Undefined where there is no object of that key.
   * @param timeoutMs where given, the read goes by itself
   * @throws NoDatabasePeersError, OverloadedError, and what PostgreSQL answers where the bucket has changed
   */
  async get(bucket: Bucket, key: string, timeoutMs?: number): Promise<ObjectRow | undefined> {
    if (key.includes('\0')) return undefined;
    if (timeoutMs) return (await this.#read(bucket, [key], timeoutMs))[0];
    const lane = this.#lane(bucket);
    let read = lane.waiting.get(key);
    if (read === undefined) {
      if (lane.waiting.size >= maxWaiting) throw overloaded(lane.waiting.size);
      read = waiting();
      lane.waiting.set(key, read);
    }
    if (!this.#scheduled) {
      // After the sockets that are readable now have been read: what they ask for belongs together.
      this.#scheduled = true;
      setImmediate(() => {
        this.#scheduled = false;
        for (const [of, each] of this.#lanes) this.#dispatch(of, each);
      });
    }
    return read.row;
  }

  /** The same from a standby, or from the primary where no standby can answer; goes by itself. */
  async getAtStandby(bucket: Bucket, key: string, options: CallOptions): Promise<ObjectRow | undefined> {
    if (key.includes('\0')) return undefined;
    const [row] = await readingAtStandby(
      this.#database,
      options,
      (client) => fetchRows(client, bucket, [key], options.timeout),
      () => this.#read(bucket, [key], options.timeout),
    );
    return row;
  }

  #lane(bucket: Bucket): Lane {
    let lane = this.#lanes.get(bucket);
    if (lane === undefined) {
      lane = { waiting: new Map(), groups: 0 };
      this.#lanes.set(bucket, lane);
    }
    return lane;
  }

  #dispatch(bucket: Bucket, lane: Lane): void {
    while (lane.waiting.size > 0 && lane.groups < maxGroupsPerBucket) {
      void this.#run(bucket, lane, take(lane.waiting));
    }
    if (lane.groups === 0) this.#lanes.delete(bucket);
  }

  async #run(bucket: Bucket, lane: Lane, group: ReadonlyMap<string, Waiting>): Promise<void> {
    lane.groups++;
    try {
      const rows = new Map((await this.#read(bucket, [...group.keys()])).map((row) => [row[0], row]));
      for (const [key, read] of group) read.resolve(rows.get(key));
    } catch (error) {
      for (const read of group.values()) read.reject(error);
    } finally {
      lane.groups--;
      this.#dispatch(bucket, lane);
    }
  }

  async #read(bucket: Bucket, keys: readonly string[], timeoutMs?: number): Promise<ObjectRow[]> {
    return reading(
      this.#database.readers,
      (client) => fetchRows(client, bucket, keys, timeoutMs),
      () => false,
    );
  }
}

async function fetchRows(
  client: pg.PoolClient,
  bucket: Bucket,
  keys: readonly string[],
  timeoutMs: number | undefined,
): Promise<ObjectRow[]> {
  const get = {
    text: `SELECT ${objectColumns(bucket)} FROM ${bucket.table} WHERE _key = ANY ($1::text[])`,
    values: [textArray(keys)],
  };
  const rows = await exchange(client, ...(timeoutMs ? [timeLimit(timeoutMs), get] : [get]));
  return rows as ObjectRow[];
}
