import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../../../runtime/errors.ts';

const leastMs = 100;
const mostMs = 5_000;

/**
 * Pauses between attempts, doubling from 0.1 s to 5 s, ±20 % so that many who failed together do not come back together.
 */
export class Backoff {
  #next = leastMs;

  /** Waits; returns early, without an error, when `signal` is aborted. */
  async pause(signal?: AbortSignal): Promise<void> {
    const ms = this.#next * (0.8 + 0.4 * Math.random());
    this.#next = Math.min(this.#next * 2, mostMs);
    await sleep(ms, undefined, signal === undefined ? {} : { signal }).catch(() => {});
  }

  reset(): void {
    this.#next = leastMs;
  }
}

/**
 * Tries `attempt` at most `times` times, and no more once `signal` is aborted.
 * @throws Error that says what was tried, with the last cause
 */
export async function retrying<T>(
  what: string,
  times: number,
  attempt: () => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  const backoff = new Backoff();
  for (let n = 1; ; n++) {
    try {
      return await attempt();
    } catch (error) {
      if (signal?.aborted) throw new Error(`${what} was given up`, { cause: error });
      if (n >= times) throw new Error(`${what} failed ${n} times: ${messageOf(error)}`, { cause: error });
      await backoff.pause(signal);
    }
  }
}
