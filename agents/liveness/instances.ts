import { messageOf } from '../../runtime/errors.ts';

/** What a service answered. */
export interface Answer {
  readonly status: number;
  readonly text: string;
}

/** How long an instance may take to answer, in milliseconds. */
const patience = 10_000;

/** Answers by which an instance says that another one, or it at another time, may do better. */
const notNow = new Set([429, 502, 503, 504]);

/**
 * The instances of one service. Any of them answers any request, so a call goes to the one that answered last and, if
 * that cannot be reached or is not able, to each other one once.
 */
export class Instances {
  readonly urls: readonly string[];
  #current: number;

  constructor(urls: readonly string[]) {
    this.urls = urls.map((url) => url.replace(/\/$/, ''));
    // Nodes spread over the instances.
    this.#current = Math.floor(Math.random() * Math.max(1, urls.length));
  }

  get current(): string {
    return this.urls[this.#current] ?? '';
  }

  next(): void {
    this.#current = (this.#current + 1) % Math.max(1, this.urls.length);
  }

  /** @throws Error if no instance could answer. */
  async call(
    method: string,
    path: string,
    body: unknown,
    requestId: string | null,
    signal: AbortSignal,
  ): Promise<Answer> {
    let problem = 'there are no instances';
    for (let tried = 0; tried < this.urls.length; tried++) {
      const url = this.current;
      try {
        const response = await fetch(`${url}${path}`, {
          method,
          headers: {
            'content-type': 'application/json',
            accept: 'application/json',
            ...(requestId === null ? {} : { 'x-request-id': requestId }),
          },
          body: JSON.stringify(body),
          signal: AbortSignal.any([signal, AbortSignal.timeout(patience)]),
        });
        const text = await response.text();
        if (!notNow.has(response.status)) return { status: response.status, text };
        problem = `${url} answered ${response.status}: ${text.slice(0, 200)}`;
      } catch (error) {
        if (signal.aborted) throw error;
        problem = `${url}: ${causeOf(error)}`;
      }
      this.next();
    }
    throw new Error(problem);
  }
}

/** `fetch failed` says nothing; its cause does. */
function causeOf(error: unknown): string {
  return error instanceof Error && error.cause !== undefined ? messageOf(error.cause) : messageOf(error);
}
