export interface Turn {
  readonly begun: Promise<void>;
  /** Ends the turn, or the wait for it. */
  over(): void;
}

/** Lets so many at once, in the order in which they come. */
export class Turns {
  readonly #waiting = new Set<() => void>();
  #free: number;

  constructor(atOnce: number) {
    this.#free = atOnce;
  }

  /** How many wait. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** Not to be called by who has a turn. */
  take(): Turn {
    let begin: () => void = () => undefined;
    const begun = new Promise<void>((resolve) => {
      begin = resolve;
    });
    if (this.#free > 0) {
      this.#free--;
      begin();
    } else this.#waiting.add(begin);
    let over = false;
    return {
      begun,
      over: () => {
        if (over) return;
        over = true;
        if (!this.#waiting.delete(begin)) this.#end();
      },
    };
  }

  #end(): void {
    const [next] = this.#waiting;
    if (next === undefined) {
      this.#free++;
      return;
    }
    this.#waiting.delete(next);
    next();
  }
}
