import { CongerError } from '../../runtime/errors.ts';

/** What a call in flight takes beside its request, about: what is kept of it, and its answer. */
const perCall = 4096;
/** A call that was turned away may be made again after about this long: by then what was in flight has been answered. */
const retryAfterMs = 100;

/**
 * The memory that calls in flight may take together, over all connections. It bounds what the requests of all clients
 * can make of the process. One call alone always has room.
 */
export class Budget {
  readonly #limit: number;
  #taken = 0;
  #calls = 0;

  /** @param limit in bytes */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Whether there is room for a request of `size` bytes; it is then taken, until `give`. */
  take(size: number): boolean {
    if (this.#calls > 0 && this.#taken + size + perCall > this.#limit) return false;
    this.#taken += size + perCall;
    this.#calls++;
    return true;
  }

  give(size: number): void {
    this.#taken -= size + perCall;
    this.#calls--;
  }

  exhausted(): CongerError {
    const context = { waiting: this.#calls, bytes: this.#taken, limit: this.#limit, retryAfterMs };
    return new CongerError('OverloadedError', `${this.#calls} calls are in flight; try again shortly`, {
      context,
    });
  }
}
