import { setTimeout as sleep } from 'node:timers/promises';
import { isCongerError } from '../../runtime/errors.ts';

/** How often a read-modify-write is tried before its conflict is the caller's. */
const defaultTries = 12;

/**
 * Runs a read-modify-write, and runs it again (with jitter) when another writer came first: it must read anew on
 * each try.
 * @throws CongerError EtagConflictError after the last try; whatever else `work` throws, at once
 */
export async function retryOnConflict<T>(work: () => Promise<T>, tries = defaultTries): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (!isCongerError(error, 'EtagConflictError') || attempt >= tries) throw error;
      await sleep(Math.min(200, 2 ** attempt) * Math.random());
    }
  }
}
