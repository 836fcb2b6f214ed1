/** How long an ended holder is remembered, in milliseconds, and how many of them say nothing yet. */
const OF_LATE_MS = 60_000;
const USUAL = 10;

/**
 * How long a holder may be silent before it is ended: twice as long for each one beyond ten that was ended within
 * the last minute. Where nothing is stopped and the machine is only slow, two processes would else take a seat from each
 * other for ever, and nobody would get to work.
 */
export class Patience {
  readonly #leastMs: number;
  readonly #mostMs: number;
  #ended: number[] = [];

  constructor(leastMs: number, mostMs: number) {
    this.#leastMs = leastMs;
    this.#mostMs = mostMs;
  }

  get ms(): number {
    const now = performance.now();
    this.#ended = this.#ended.filter((time) => now - time < OF_LATE_MS);
    return Math.min(this.#leastMs * 2 ** Math.max(0, this.#ended.length - USUAL), this.#mostMs);
  }

  /** A holder was ended. */
  tried(): void {
    this.#ended.push(performance.now());
  }
}
