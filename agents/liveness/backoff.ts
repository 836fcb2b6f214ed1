/**
 * Pauses between attempts: doubling from `least` to `most` milliseconds, each somewhere between half and all of it, so that
 * thousands of nodes that lost one instance do not come back at one moment.
 */
export class Backoff {
  readonly #least: number;
  readonly #most: number;
  #next: number;

  constructor(least = 50, most = 5_000) {
    this.#least = least;
    this.#most = most;
    this.#next = least;
  }

  reset(): void {
    this.#next = this.#least;
  }

  /** The next pause, in milliseconds. */
  take(): number {
    const pause = this.#next;
    this.#next = Math.min(this.#most, this.#next * 2);
    return pause * (0.5 + Math.random() / 2);
  }
}

/** Resolves after `ms` milliseconds, or at once when `signal` is aborted. Keeps no process alive. */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done);
  });
}
