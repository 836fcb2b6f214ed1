/** One received position, and when (milliseconds since 1970) it arrived and was in the kernel. */
export interface Timing {
  readonly position: string;
  /** The object's key; null for a snapshot. */
  readonly key: string | null;
  readonly requestId: string | null;
  readonly received: number;
  readonly applied: number;
}

/** The last positions that came into the kernel, oldest first, at most `limit`. */
export class Timings {
  readonly #limit: number;
  #waiting: Omit<Timing, 'applied'>[] = [];
  #done: Timing[] = [];

  constructor(limit = 1000) {
    this.#limit = limit;
  }

  get done(): readonly Timing[] {
    return this.#done;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  received(position: string, key: string | null, requestId: string | null): void {
    this.#waiting.push({ position, key, requestId, received: Date.now() });
  }

  /** Takes what has been received so far: a reconciliation that starts now covers it. */
  take(): Omit<Timing, 'applied'>[] {
    const taken = this.#waiting;
    this.#waiting = [];
    return taken;
  }

  /** Gives back what a reconciliation took and did not apply. */
  giveBack(taken: readonly Omit<Timing, 'applied'>[]): void {
    this.#waiting = [...taken, ...this.#waiting];
  }

  /** The kernel now shows what was taken. */
  applied(taken: readonly Omit<Timing, 'applied'>[]): Timing[] {
    const applied = Date.now();
    const stamped = taken.map((timing) => ({ ...timing, applied }));
    this.#done = [...this.#done, ...stamped].slice(-this.#limit);
    return stamped;
  }
}
