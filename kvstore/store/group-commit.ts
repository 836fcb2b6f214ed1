import { failpoint } from '../../runtime/failpoints.ts';
import type { Bucket } from './bucket.ts';
import { committing, type Database } from './database.ts';
import { overloaded } from './errors.ts';
import { FairQueue } from './fair-queue.ts';
import type { Registry } from './registry.ts';
import { givenUp, isDataError, isRace, isStale, LostRace, maxAttempts, StaleBucket } from './retry.ts';
import { isKeyRace, outcomeError, writeError } from './sql-errors.ts';
import { timer } from './store-metrics.ts';
import type { Write } from './write.ts';
import { executeWrites, type Outcome } from './write-statement.ts';

const maxRows = 256;
const maxBytes = 1024 * 1024;
const maxWaiting = 4096;
/** Of one bucket. A third only makes groups smaller. */
const maxGroupsPerBucket = 2;

/** Encodes a write for the bucket; called again where the bucket has changed meanwhile. */
export type Encoder = (bucket: Bucket) => Write;

interface Pending {
  /** Who takes turns with others: a client's connection. */
  readonly source: object;
  readonly encode: Encoder;
  write: Write;
  encodedFor: Bucket;
  readonly bytes: number;
  readonly resolve: (write: Write) => void;
  readonly reject: (error: unknown) => void;
}

interface Lane {
  readonly bucket: string;
  /** Writes that may go into the next group: the first of each key. */
  readonly ready: FairQueue<Pending>;
  /** Of each key that has a write ready or in flight: the writes behind it, in order of arrival. */
  readonly behind: Map<string, Pending[]>;
  groups: number;
}

/**
 * Gathers concurrent puts and deletes of single objects into one statement a bucket, which is one transaction: what
 * arrives while a bucket has two of them in flight goes together as soon as one ends. A write that finds none in
 * flight goes at once.
 *
 * Sources take turns when a group is formed, and have an equal share of the room to wait in: none waits behind all that
 * another has sent. Writes of one key take effect in their order of arrival, one at a time. Each write has its own check, outcome and
 * error: what fails as a whole is split, down to the single write whose error it is.
 */
export class GroupCommit {
  readonly #database: Database;
  readonly #registry: Registry;
  readonly #maxGroups: number;
  readonly #lanes = new Map<string, Lane>();
  /** Writes that are not settled, by their source. */
  readonly #waitingOf = new Map<object, number>();
  #waiting = 0;
  #groups = 0;
  #scheduled = false;

  /** @param maxGroups transactions in flight over all buckets */
  constructor(database: Database, registry: Registry, maxGroups: number) {
    this.#database = database;
    this.#registry = registry;
    this.#maxGroups = maxGroups;
  }

  /**
   * Answers the write as it was committed.
   * @param source whose write it is; sources take turns
   * @throws EtagConflictError, ObjectNotFoundError, UniqueAttributeError, InvalidIndexTypeError, OverloadedError, ...
   */
  async submit(source: object, bucket: Bucket, encode: Encoder): Promise<Write> {
    this.#admit(source);
    const write = encode(bucket);
    return new Promise<Write>((resolve, reject) => {
      const bytes = write.key.length + (write.text?.length ?? 0);
      this.#enqueue({ source, encode, write, encodedFor: bucket, bytes, resolve, reject });
    });
  }

  /** @throws OverloadedError where too many wait, and the source has its share of them or more */
  #admit(source: object): void {
    if (this.#waiting < maxWaiting) return;
    const own = this.#waitingOf.get(source) ?? 0;
    const share = Math.floor(maxWaiting / (this.#waitingOf.size + 1));
    if (own >= share || this.#waiting >= 2 * maxWaiting) throw overloaded(this.#waiting);
  }

  #enqueue(pending: Pending): void {
    const lane = this.#lane(pending.encodedFor.name);
    const behind = lane.behind.get(pending.write.key);
    if (behind === undefined) {
      lane.behind.set(pending.write.key, []);
      lane.ready.push(pending.source, pending);
    } else {
      behind.push(pending);
    }
    this.#waiting++;
    this.#waitingOf.set(pending.source, (this.#waitingOf.get(pending.source) ?? 0) + 1);
    if (this.#scheduled) return;
    // After the sockets that are readable now have been read: what they bring belongs together.
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#dispatch();
    });
  }

  #lane(bucket: string): Lane {
    let lane = this.#lanes.get(bucket);
    if (lane === undefined) {
      lane = { bucket, ready: new FairQueue(), behind: new Map(), groups: 0 };
      this.#lanes.set(bucket, lane);
    }
    return lane;
  }

  #dispatch(): void {
    for (const lane of [...this.#lanes.values()]) {
      while (lane.ready.length > 0 && lane.groups < maxGroupsPerBucket) {
        if (this.#groups >= this.#maxGroups) return;
        void this.#run(lane, take(lane.ready));
      }
    }
  }

  async #run(lane: Lane, group: readonly Pending[]): Promise<void> {
    this.#groups++;
    lane.groups++;
    timer.rows.observe(group.length);
    try {
      await this.#write(lane, group);
    } finally {
      this.#groups--;
      lane.groups--;
      // To the back of the line, so that busy buckets take turns; away with it where nothing is left.
      this.#lanes.delete(lane.bucket);
      if (lane.behind.size > 0) this.#lanes.set(lane.bucket, lane);
      this.#dispatch();
    }
  }

  async #write(lane: Lane, group: readonly Pending[]): Promise<void> {
    let live = group;
    for (let attempt = 1; ; attempt++) {
      let bucket: Bucket | undefined;
      try {
        bucket = await this.#registry.get(lane.bucket);
        live = this.#encode(lane, live, bucket);
        if (live.length === 0) return;
        const outcomes = await this.#execute(bucket, live);
        const races = live.filter((pending, i) => this.#settleOutcome(lane, pending, outcomes[i]));
        for (const pending of races) await this.#write(lane, [pending]);
        return;
      } catch (error) {
        if (attempt < maxAttempts && (await this.#isWorthAnotherTry(error, bucket))) continue;
        if (isDataError(error) && live.length > 1) {
          const half = live.length >> 1;
          await this.#write(lane, live.slice(0, half));
          await this.#write(lane, live.slice(half));
          return;
        }
        for (const pending of live) {
          this.#settle(lane, pending, () => {
            pending.reject(bucket === undefined ? error : writeError(givenUp(error), bucket, pending.write));
          });
        }
        return;
      }
    }
  }

  /** Encodes anew what was encoded for another generation; what cannot be is settled with its error. */
  #encode(lane: Lane, group: readonly Pending[], bucket: Bucket): readonly Pending[] {
    return group.filter((pending) => {
      if (pending.encodedFor === bucket) return true;
      try {
        pending.write = pending.encode(bucket);
        pending.encodedFor = bucket;
        return true;
      } catch (error) {
        this.#settle(lane, pending, () => pending.reject(error));
        return false;
      }
    });
  }

  async #execute(bucket: Bucket, group: readonly Pending[]): Promise<readonly Outcome[]> {
    const writes = group.map((pending) => pending.write);
    const unit = writes.length === 1 ? 'whole' : 'each';
    const done = timer.seconds.startTimer();
    try {
      const outcomes = await committing(this.#database.writers, async (client) => {
        await failpoint('kvstore.group.before');
        const executed = await executeWrites(client, bucket, writes, unit);
        await failpoint('kvstore.group.after');
        return executed;
      });
      if (outcomes === undefined) throw new StaleBucket(bucket);
      return outcomes;
    } catch (error) {
      throw unit === 'whole' && isKeyRace(error, bucket.name) ? new LostRace() : error;
    } finally {
      done();
    }
  }

  async #isWorthAnotherTry(error: unknown, bucket: Bucket | undefined): Promise<boolean> {
    if (isRace(error)) return true;
    try {
      return bucket !== undefined && (await isStale(error, bucket, this.#registry));
    } catch {
      // The bucket is gone; the next try finds that out for itself.
      return true;
    }
  }

  /** Whether it lost a race, and is to be written again; all else is settled. */
  #settleOutcome(lane: Lane, pending: Pending, outcome: Outcome | undefined): boolean {
    const { write } = pending;
    if (outcome?.kind === 'race') return true;
    this.#settle(lane, pending, () => {
      if (outcome?.kind === 'written') pending.resolve(write);
      else pending.reject(outcomeError(lane.bucket, write, outcome));
    });
    return false;
  }

  #settle(lane: Lane, pending: Pending, answer: () => void): void {
    this.#waiting--;
    const left = (this.#waitingOf.get(pending.source) ?? 1) - 1;
    if (left > 0) this.#waitingOf.set(pending.source, left);
    else this.#waitingOf.delete(pending.source);
    const behind = lane.behind.get(pending.write.key);
    const next = behind?.shift();
    if (next === undefined) lane.behind.delete(pending.write.key);
    else lane.ready.push(next.source, next);
    answer();
  }
}

/** Takes the next group: as many as fit, and at least one. */
function take(ready: FairQueue<Pending>): Pending[] {
  let bytes = 0;
  let rows = 0;
  return ready.take((pending) => {
    bytes += pending.bytes;
    return rows++ === 0 || (rows <= maxRows && bytes <= maxBytes);
  });
}
