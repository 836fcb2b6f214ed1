import { partitionOf } from '../change.ts';
import { formatPosition, positionsOf, START } from '../position.ts';
import type { LogRecord, Position } from '../types.ts';
import { StreamAnewError } from './parts.ts';
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
  /** @throws StreamAnewError behind the last slice, where that is not the transaction's last: it is not to be confirmed */
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
  /** undefined where it is in progress. */
  readonly commit: Commit | undefined;
  /** How many of its changes have come. */
  count: number;
  /** Those of them that are in memory, all or none. */
  parts: Part[];
  bytes: number;
  spool: Spool | undefined;
  /** Whether the spool did not take all of what is new. */
  cut: boolean;
  /** By partition, the index of the last change that has come; of what is in memory it is found at the commit. */
  readonly last: number[];
}

/**
 * Puts transactions together out of pgoutput's messages. A transaction is given out whole, at its commit, and every
 * record in it knows its index, how many there are, and which is the last one in its partition; messages outside of transactions, and of other prefixes, are
 * nobody's changes. Large ones wait on disk, also those that PostgreSQL sends while they are in progress (streams).
 *
 * Of a committed transaction that the disk does not take whole, what has no room is only counted: what has is given out,
 * and then the stream begins anew. What is in the log by then takes no room any more, so the next piece has it.
 */
export class Assembler {
  readonly #epoch: number;
  readonly #partitions: number;
  readonly #tails: readonly Position[];
  readonly #room: SpoolRoom;
  /** Between its begin and its commit. */
  #open: Open | undefined;
  /** Transactions in progress, of which parts have come, by id. */
  readonly #streamed = new Map<number, Open>();
  /** The one of which a part is coming. */
  #streaming: Open | undefined;

  /** `tails` are the last positions of the partitions as the stream begins. */
  constructor(epoch: number, partitions: number, room: SpoolRoom, tails: readonly Position[] = []) {
    this.#epoch = epoch;
    this.#partitions = partitions;
    this.#room = room;
    this.#tails = tails;
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
   * @throws StreamAnewError where a transaction in progress cannot go on to come in parts: a savepoint is rolled back of
   * which changes have come, and nothing tells which they are; or those in progress are larger than the spool
   */
  push(message: PgOutput): CapturedTransaction | undefined {
    switch (message.kind) {
      case 'begin':
        this.#open = newOpen(message.xid32, { lsn: message.commitLsn, time: message.time });
        return undefined;
      case 'message':
        this.#add(message);
        return undefined;
      case 'commit': {
        const open = this.#open;
        if (open?.commit === undefined) throw new Error('a commit outside of a transaction');
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
    const index = open.count++;
    if (open.spool !== undefined) {
      this.#spool(open, open.spool, { index, partitionKey, body: message.content });
      return;
    }
    // A copy: pg moves what is left of a message to the front of the buffer that earlier messages are views into.
    open.parts.push({ index, partitionKey, body: Buffer.from(message.content) });
    open.bytes += message.content.length;
    if (open.bytes + open.parts.length * PART_BYTES > MEMORY_BYTES) {
      open.spool = this.#room.spool();
      for (const part of open.parts) this.#spool(open, open.spool, part);
      open.parts = [];
      open.bytes = 0;
    }
  }

  #spool(open: Open, spool: Spool, part: Part): void {
    this.#noteLast(open, part);
    if (open.cut || (open.commit !== undefined && this.#isInLog(part, open.commit))) return;
    open.cut = !spool.add(part);
    if (open.commit === undefined && spool.full !== undefined) {
      throw new StreamAnewError(
        `transactions in progress have no room: ${spool.full}; they have to come at their commits`,
        [...this.#streamed.keys()],
      );
    }
  }

  #noteLast({ last }: Open, { index, partitionKey }: Part): void {
    last[partitionOf(partitionKey, this.#partitions)] = index;
  }

  #isInLog({ index, partitionKey }: Part, { lsn }: Commit): boolean {
    const tail = this.#tails[partitionOf(partitionKey, this.#partitions)] ?? START;
    return formatPosition({ epoch: this.#epoch, lsn, index }) <= tail;
  }

  /**
   * A savepoint's messages come under the id of the whole transaction, so that they cannot be told from the rest when it
   * is rolled back. PostgreSQL knows, and leaves them out where it sends transactions at their commit.
   */
  #abort({ xid32, subxid32 }: PgOutput & { kind: 'stream-abort' }): void {
    const open = this.#streamed.get(xid32);
    if (open === undefined) return;
    if (subxid32 !== xid32 && open.count > 0) {
      throw new StreamAnewError(
        'a savepoint was rolled back in a transaction in progress: it has to come at its commit',
        [xid32],
      );
    }
    if (subxid32 !== xid32) return;
    open.spool?.close();
    this.#streamed.delete(xid32);
  }

  #captured(open: Open, commit: Commit, endLsn: bigint): CapturedTransaction {
    const { xid32, count, parts, bytes, spool, cut, last } = open;
    if (parts.length > 1) for (const part of parts) this.#noteLast(open, part);
    const position = positionsOf(this.#epoch, commit.lsn);
    const record = ({ index, partitionKey, body }: Part): CapturedRecord => {
      const partition = partitionOf(partitionKey, this.#partitions);
      return {
        position: position(index),
        partition,
        partitionKey,
        index,
        count,
        last: last[partition] ?? index,
        time: commit.time,
        body,
      };
    };
    if (spool === undefined) return { xid32, endLsn, bytes, records: parts.map(record) };
    const large: LargeTransaction = {
      async *slices(most) {
        for await (const slice of spool.slices(most)) yield slice.map(record);
        if (cut) {
          throw new StreamAnewError(
            `${spool.count} more changes of a transaction of ${count} are in the log, the rest has to come again: ${spool.full}`,
            [xid32],
          );
        }
      },
      close: () => spool.close(),
    };
    return { xid32, endLsn, bytes: 0, records: [], large };
  }
}

function newOpen(xid32: number, commit?: Commit): Open {
  return { xid32, commit, count: 0, parts: [], bytes: 0, spool: undefined, cut: false, last: [] };
}
