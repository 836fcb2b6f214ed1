import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../runtime/errors.ts';

/** Waits until `done` answers true; an error counts as not yet. */
export async function until(what: string, done: () => Promise<boolean>, patienceMs = 30_000): Promise<void> {
  const end = performance.now() + patienceMs;
  let last: unknown;
  for (;;) {
    try {
      if (await done()) return;
    } catch (error) {
      last = error;
    }
    if (performance.now() > end) {
      const why = last === undefined ? '' : ` (${messageOf(last)})`;
      throw new Error(`not within ${patienceMs} ms: ${what}${why}`, { cause: last });
    }
    await sleep(20);
  }
}
