import { setTimeout as sleep } from 'node:timers/promises';
import type { Random } from '../random.ts';

/** One change as a listener saw it. */
export interface Seen {
  readonly partition: number;
  readonly position: string;
  readonly type: 'put' | 'delete';
  readonly key: string;
  readonly etag: string | null;
}

/**
 * A listener of `GET /feed`, as a team's service would be one: it remembers the cursor of the last line, and goes on
 * from there at any instance when its connection ends. All that it ever saw is in `seen`, in the order it came.
 */
export class Listener {
  readonly seen: Seen[] = [];
  /** Connections that ended, for whatever reason. */
  reconnects = -1;
  readonly #urls: readonly string[];
  readonly #resource: string;
  readonly #random: Random;
  readonly #abort = new AbortController();
  readonly #listening: Promise<void>;
  readonly #begun: Promise<void>;
  #cursor: string | undefined;
  #begin: () => void = () => {};

  constructor(urls: readonly string[], resource: string, random: Random) {
    this.#urls = urls;
    this.#resource = resource;
    this.#random = random;
    this.#begun = new Promise((resolve) => {
      this.#begin = resolve;
    });
    this.#listening = this.#listen();
  }

  /** Resolves once the listener has its place in the feed: what changes from then on, it sees. */
  begun(): Promise<void> {
    return this.#begun;
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    await this.#listening;
  }

  async #listen(): Promise<void> {
    while (!this.#abort.signal.aborted) {
      this.reconnects++;
      try {
        await this.#follow(this.#random.pick(this.#urls));
      } catch {
        // The connection broke: the next one goes on from the cursor.
      }
      await sleep(50);
    }
  }

  async #follow(url: string): Promise<void> {
    const query = new URLSearchParams({ resource: this.#resource });
    if (this.#cursor !== undefined) query.set('since', this.#cursor);
    const answer = await fetch(`${url}/feed?${query}`, { signal: this.#abort.signal });
    if (!answer.ok || answer.body === null) {
      const text = await answer.text();
      // Anything but "not now" is a broken promise, and must not be retried into silence.
      if (answer.status !== 503)
        this.seen.push({ partition: -1, position: text, type: 'put', key: 'refused', etag: null });
      return;
    }
    let rest = '';
    for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) this.#take(JSON.parse(line) as Seen & { cursor?: string });
    }
  }

  #take(line: Omit<Seen, 'type'> & { type: string; cursor?: string }): void {
    if (line.type === 'put' || line.type === 'delete') {
      const { partition, position, key, etag } = line;
      this.seen.push({ partition, position, type: line.type, key, etag });
    }
    if (line.cursor !== undefined) this.#cursor = line.cursor;
    this.#begin();
  }
}
