import { overloaded } from './errors.ts';

/**
 * Lets at most `max` pieces of work run at a time; the others wait in their order of arrival, up to `maxWaiting` of
 * them.
 */
export class Slots {
  readonly #max: number;
  readonly #maxWaiting: number;
  readonly #waiting: (() => void)[] = [];
  #used = 0;

  constructor(max: number, maxWaiting: number) {
    this.#max = max;
    this.#maxWaiting = maxWaiting;
  }

  /** @throws OverloadedError where too many wait already */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#used < this.#max) {
      this.#used++;
    } else {
      if (this.#waiting.length >= this.#maxWaiting) throw overloaded(this.#waiting.length);
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      // Who comes next takes the place over, so that nobody comes in between.
      if (next === undefined) this.#used--;
      else next();
    }
  }
}
