import { messageOf } from '../../../runtime/errors.ts';
import { Backoff } from '../../backoff.ts';

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
  const backoff = new Backoff(100, 2_000);
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
