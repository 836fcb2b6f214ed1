import { transactionOf } from './position.ts';
import type { LogRecord } from './types.ts';

/**
 * What a transaction has in one partition is handed over together, up to so many records and bytes of bodies. What is
 * larger comes in parts, because it waits in memory.
 */
export const WHOLE_RECORDS = 10_000;
export const WHOLE_BYTES = 32 * 1024 * 1024;

/**
 * Told of the records of a partition one by one, in order, it says how many of the last ones are to wait, because their
 * transaction has more to come in the partition. A writer that does not say so, as that of 0.1.0, keeps nobody waiting; nor
 * does a transaction whose rest never comes, once there is anything behind it.
 */
export class Whole {
  #transaction = '';
  #waiting = 0;
  #bytes = 0;
  /** The transaction is too large, and goes on in parts. */
  #inParts = false;

  add({ position, index, last, body }: LogRecord): number {
    const transaction = transactionOf(position);
    if (transaction !== this.#transaction) {
      this.#transaction = transaction;
      this.#inParts = false;
      this.pass();
    }
    if (last === undefined || index >= last || this.#inParts) return this.pass();
    this.#waiting++;
    this.#bytes += body.length;
    if (this.#waiting < WHOLE_RECORDS && this.#bytes < WHOLE_BYTES) return this.#waiting;
    this.#inParts = true;
    return this.pass();
  }

  /** Nothing waits any more. */
  pass(): number {
    this.#waiting = 0;
    this.#bytes = 0;
    return 0;
  }
}
