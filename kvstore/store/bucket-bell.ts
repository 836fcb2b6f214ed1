import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Notifications } from './notifications.ts';

const channel = 'kv.buckets';
const firstPauseMs = 100;
const longestPauseMs = 2_000;

/** What a ring is about; undefined: rings may have been missed, so look at everything. */
export type OnRing = (bucket: string | undefined) => void;

/** Tells every server, at the commit of the transaction that changes a bucket. */
export async function ring(client: pg.PoolClient, bucket: string): Promise<void> {
  await client.query('SELECT pg_notify($1, $2)', [channel, bucket]);
}

/**
 * Hears of each change of a bucket that any server makes. A ring only says that it is time to look, and nothing is
 * right or wrong because of one; whenever the connection is made anew, listeners are told to look at everything.
 */
export class BucketBell {
  readonly #notifications: Notifications;
  readonly #log: Logger;
  readonly #listeners = new Set<OnRing>();
  readonly #closed = new AbortController();
  #listening: Promise<void> | undefined;

  constructor(notifications: Notifications, log: Logger) {
    this.#notifications = notifications;
    this.#log = log;
  }

  on(listener: OnRing): void {
    this.#listeners.add(listener);
  }

  /** Listens from soon on, and until `close`. */
  open(): void {
    this.#listening ??= this.#listen();
  }

  get closed(): boolean {
    return this.#closed.signal.aborted;
  }

  /** Resolves at the next ring, whatever it is about, or when `signal` is aborted or the bell closed. */
  next(signal: AbortSignal): Promise<void> {
    const ends = [signal, this.#closed.signal];
    return new Promise((resolve) => {
      const end = () => {
        this.#listeners.delete(end);
        for (const each of ends) each.removeEventListener('abort', end);
        resolve();
      };
      this.#listeners.add(end);
      for (const each of ends) each.addEventListener('abort', end);
      if (ends.some((each) => each.aborted)) end();
    });
  }

  async close(): Promise<void> {
    this.#closed.abort();
    await this.#listening;
  }

  async #listen(): Promise<void> {
    const { signal } = this.#closed;
    for (let pauseMs = firstPauseMs; !signal.aborted; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
      try {
        await this.#hear(() => {
          pauseMs = firstPauseMs;
        });
      } catch (error) {
        this.#log.warn({ err: error }, `cannot hear of changes of buckets: ${messageOf(error)}`);
      }
      await delay(pauseMs * (0.5 + Math.random() / 2), undefined, { signal }).catch(() => undefined);
    }
  }

  /** Resolves at the bell's end; rejects where the connection broke. */
  async #hear(onReady: () => void): Promise<void> {
    const { signal } = this.#closed;
    let silence = () => {};
    let onAbort = () => {};
    try {
      await new Promise<void>((resolve, reject) => {
        onAbort = resolve;
        signal.addEventListener('abort', onAbort);
        const listener = { hear: (payload: string) => this.#ring(payload), lost: reject };
        this.#notifications
          .listen(channel, listener)
          .then((stop) => {
            silence = stop;
            if (signal.aborted) return stop();
            onReady();
            this.#ring(undefined);
          })
          .catch(reject);
      });
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
    silence();
  }

  #ring(bucket: string | undefined): void {
    for (const listener of [...this.#listeners]) listener(bucket);
  }
}
