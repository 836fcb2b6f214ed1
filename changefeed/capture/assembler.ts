import { partitionOf } from '../change.ts';
import { formatPosition } from '../position.ts';
import type { LogRecord } from '../types.ts';
import type { PgOutput } from './pgoutput.ts';

/** What precedes the partition key in the prefix of a logical message that is a change. */
export const CHANGE_PREFIX = 'conger/';

/** One committed transaction that holds changes. */
export interface CapturedTransaction {
  readonly xid32: number;
  readonly endLsn: bigint;
  /** In the order in which they were emitted; `xid` is still to be set. */
  readonly records: readonly Omit<LogRecord, 'xid'>[];
  /** Size of the bodies. */
  readonly bytes: number;
}

interface Open {
  readonly commitLsn: bigint;
  readonly time: number;
  readonly xid32: number;
  readonly parts: { readonly partitionKey: string; readonly body: Buffer }[];
  bytes: number;
}

/**
 * Puts transactions together out of pgoutput's messages. A transaction is given out whole, at its commit, and every
 * record in it knows its index and how many there are; messages outside of transactions, and of other prefixes, are
 * nobody's changes.
 */
export class Assembler {
  readonly #epoch: number;
  readonly #partitions: number;
  #open: Open | undefined;

  constructor(epoch: number, partitions: number) {
    this.#epoch = epoch;
    this.#partitions = partitions;
  }

  /** Whether a transaction has begun and not ended. */
  get midway(): boolean {
    return this.#open !== undefined;
  }

  /** Answers a transaction on its commit; `endLsn` is also given for one without changes. */
  push(message: PgOutput): CapturedTransaction | undefined {
    switch (message.kind) {
      case 'begin':
        this.#open = {
          commitLsn: message.commitLsn,
          time: message.time,
          xid32: message.xid32,
          parts: [],
          bytes: 0,
        };
        return undefined;
      case 'message':
        this.#add(message);
        return undefined;
      case 'commit':
        return this.#commit(message.endLsn);
    }
  }

  #add(message: PgOutput & { kind: 'message' }): void {
    if (!message.transactional || !message.prefix.startsWith(CHANGE_PREFIX)) return;
    if (this.#open === undefined) throw new Error('a transactional message outside of a transaction');
    this.#open.parts.push({
      partitionKey: message.prefix.slice(CHANGE_PREFIX.length),
      // A copy: pg moves what is left of a message to the front of the buffer that earlier messages are views into.
      body: Buffer.from(message.content),
    });
    this.#open.bytes += message.content.length;
  }

  #commit(endLsn: bigint): CapturedTransaction {
    const open = this.#open;
    if (open === undefined) throw new Error('a commit outside of a transaction');
    this.#open = undefined;
    return {
      xid32: open.xid32,
      endLsn,
      bytes: open.bytes,
      records: open.parts.map(({ partitionKey, body }, index) => ({
        position: formatPosition({ epoch: this.#epoch, lsn: open.commitLsn, index }),
        partition: partitionOf(partitionKey, this.#partitions),
        partitionKey,
        index,
        count: open.parts.length,
        time: open.time,
        body,
      })),
    };
  }
}
