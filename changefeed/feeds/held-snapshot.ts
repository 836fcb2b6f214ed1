import type { FeedCursor } from './cursor.ts';
import type { FeedSnapshot } from './feed.ts';
import type { Turn, Turns } from './turns.ts';

/** One reader's hold on a snapshot. */
export interface Hold<Item> {
  readonly answer: Promise<FeedSnapshot<Item>>;
  /** The reader needs it no more, or has gone. */
  release(): void;
}

/**
 * A snapshot of the store that readers share, in memory for as long as one of them is sent it. It has a turn meanwhile,
 * and in any case until the store has answered: that bounds how many there are at once.
 */
export class HeldSnapshot<Item> {
  readonly #answer: Promise<FeedSnapshot<Item>>;
  readonly #turn: Turn;
  readonly #onEnd: () => void;
  #readers = 0;
  #since: FeedCursor | undefined;

  /** @param read reads the store; `place` answers where the broadcast stands, and is asked before */
  constructor(
    turns: Turns,
    place: () => FeedCursor,
    read: () => Promise<Omit<FeedSnapshot<Item>, 'since'>>,
    onEnd: () => void,
  ) {
    this.#turn = turns.take();
    this.#onEnd = onEnd;
    this.#answer = this.#turn.begun.then(async () => {
      if (this.#readers === 0) throw new Error('nobody waits for the snapshot any more');
      this.#since = place();
      return { ...(await read()), since: this.#since };
    });
    // Who holds it is told; that nobody does any more is no fault.
    this.#answer.catch(() => undefined);
  }

  /** Where readers go on from behind it; undefined while it waits for its turn. */
  get since(): FeedCursor | undefined {
    return this.#since;
  }

  hold(): Hold<Item> {
    this.#readers++;
    let held = true;
    return {
      answer: this.#answer,
      release: () => {
        if (!held) return;
        held = false;
        if (--this.#readers > 0) return;
        this.#onEnd();
        const over = () => this.#turn.over();
        if (this.#since === undefined) over();
        else this.#answer.then(over, over);
      },
    };
  }
}
