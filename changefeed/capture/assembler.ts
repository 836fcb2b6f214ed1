import { partitionOf } from '../change.ts';
import { formatPosition } from '../position.ts';
import type { LogRecord } from '../types.ts';
import type { PgOutput } from './pgoutput.ts';
import type { Part, Spool, SpoolRoom } from './spool.ts';

/** What precedes the partition key in the prefix of a logical message that is a change. */
export const CHANGE_PREFIX = 'conger/';

/** What a transaction takes in memory before it goes to disk. */
const MEMORY_BYTES = 2 * 1024 * 1024;
/** About what a change takes beside its body. */
const PART_BYTES = 200;

export type CapturedRecord = Omit<LogRecord, 'xid'>;

/** One committed transaction. `xid` of its records is still to be set. */
export interface CapturedTransaction {
  readonly xid32: number;
  readonly endLsn: bigint;
  /** In the order in which they were emitted; empty where the transaction is on disk. */
  readonly records: readonly CapturedRecord[];
  /** Size of the bodies in `records`. */
  readonly bytes: number;
  /** Set where the transaction is too large for `records`. */
  readonly large?: LargeTransaction;
}

/** A transaction on disk, to be closed by whoever was given it. */
export interface LargeTransaction {
  slices(most: { readonly records: number; readonly bytes: number }): AsyncGenerator<CapturedRecord[]>;
  close(): void;
}

/** Where and when a transaction was committed. */
interface Commit {
  readonly lsn: bigint;
  readonly time: number;
}

interface Open {
  readonly xid32: number;
  parts: Part[];
  bytes: number;
  spool: Spool | undefined;
}

/**
 * Puts transactions together out of pgoutput's messages. A transaction is given out whole, at its commit, and every
 * record in it knows its index and how many there are; messages outside of transactions, and of other prefixes, are
 * nobody's changes. Large ones wait on disk, also those that PostgreSQL sends while they are in progress (streams).
 */
export class Assembler {
  readonly #epoch: number;
  readonly #partitions: number;
  readonly #room: SpoolRoom;
  /** Between its begin and its commit. */
  #open: (Open & { readonly commit: Commit }) | undefined;
  /** Transactions in progress, of which parts have come, by id. */
  readonly #streamed = new Map<number, Open>();
  /** The one of which a part is coming. */
  #streaming: Open | undefined;

  constructor(epoch: number, partitions: number, room: SpoolRoom) {
    this.#epoch = epoch;
    this.#partitions = partitions;
    this.#room = room;
  }

  /** Whether a committed transaction has begun to come and has not ended. */
  get midway(): boolean {
    return this.#open !== undefined;
  }

  /** Whether a part of a transaction in progress is coming: messages then begin with its id. */
  get inStream(): boolean {
    return this.#streaming !== undefined;
  }

  /**
   * Answers a transaction on its commit; `endLsn` is also given for one without changes.
   * @throws Error where a savepoint is rolled back of which changes have come: nothing tells which they are
   */
  push(message: PgOutput): CapturedTransaction | undefined {
    switch (message.kind) {
      case 'begin':
        this.#open = { ...newOpen(message.xid32), commit: { lsn: message.commitLsn, time: message.time } };
        return undefined;
      case 'message':
        this.#add(message);
        return undefined;
      case 'commit': {
        const open = this.#open;
        if (open === undefined) throw new Error('a commit outside of a transaction');
        this.#open = undefined;
        return this.#captured(open, open.commit, message.endLsn);
      }
      case 'stream-start':
        this.#streaming = this.#streamed.get(message.xid32) ?? newOpen(message.xid32);
        this.#streamed.set(message.xid32, this.#streaming);
        return undefined;
      case 'stream-stop':
        this.#streaming = undefined;
        return undefined;
      case 'stream-commit': {
        const open = this.#streamed.get(message.xid32) ?? newOpen(message.xid32);
        this.#streamed.delete(message.xid32);
        return this.#captured(open, { lsn: message.commitLsn, time: message.time }, message.endLsn);
      }
      case 'stream-abort':
        this.#abort(message);
        return undefined;
    }
  }

  #add(message: PgOutput & { kind: 'message' }): void {
    if (!message.transactional || !message.prefix.startsWith(CHANGE_PREFIX)) return;
    const open = this.#streaming ?? this.#open;
    if (open === undefined) throw new Error('a transactional message outside of a transaction');
    const partitionKey = message.prefix.slice(CHANGE_PREFIX.length);
    if (open.spool !== undefined) {
      open.spool.add({ partitionKey, body: message.content });
      return;
    }
    // A copy: pg moves what is left of a message to the front of the buffer that earlier messages are views into.
    open.parts.push({ partitionKey, body: Buffer.from(message.content) });
    open.bytes += message.content.length;
    if (open.bytes + open.parts.length * PART_BYTES > MEMORY_BYTES) {
      open.spool = this.#room.spool();
      for (const part of open.parts) open.spool.add(part);
      open.parts = [];
      open.bytes = 0;
    }
  }

  /**
   * A savepoint's messages come under the id of the whole transaction, so that they cannot be told from the rest when it
   * is rolled back. PostgreSQL knows, and leaves them out where it sends transactions at their commit.
   */
  #abort({ xid32, subxid32 }: PgOutput & { kind: 'stream-abort' }): void {
    const open = this.#streamed.get(xid32);
    if (open === undefined) return;
    const count = open.spool?.count ?? open.parts.length;
    if (subxid32 !== xid32 && count > 0) {
      throw new Error(
        'a savepoint was rolled back in a transaction that is streamed: it has to come at its commit',
      );
    }
    if (subxid32 !== xid32) return;
    open.spool?.close();
    this.#streamed.delete(xid32);
  }

  #captured(open: Open, commit: Commit, endLsn: bigint): CapturedTransaction {
    const { xid32, parts, bytes, spool } = open;
    if (spool === undefined) {
      const records = parts.map((part, index) => this.#record(part, commit, index, parts.length));
      return { xid32, endLsn, bytes, records };
    }
    const record = (part: Part, index: number) => this.#record(part, commit, index, spool.count);
    const large: LargeTransaction = {
      async *slices(most) {
        let index = 0;
        for await (const slice of spool.slices(most)) yield slice.map((part) => record(part, index++));
      },
      close: () => spool.close(),
    };
    return { xid32, endLsn, bytes: 0, records: [], large };
  }

  #record({ partitionKey, body }: Part, commit: Commit, index: number, count: number): CapturedRecord {
    return {
      position: formatPosition({ epoch: this.#epoch, lsn: commit.lsn, index }),
      partition: partitionOf(partitionKey, this.#partitions),
      partitionKey,
      index,
      count,
      time: commit.time,
      body,
    };
  }
}

function newOpen(xid32: number): Open {
  return { xid32, parts: [], bytes: 0, spool: undefined };
}
