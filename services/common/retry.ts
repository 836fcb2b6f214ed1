import type { Kv, KvObject } from '../../kvstore/types.ts';
import { CongerError, isCongerError } from '../../runtime/errors.ts';

const maxTries = 20;

/**
 * Runs a read-modify-write again as long as somebody else was first, or nobody can tell whether it happened: `work`
 * reads anew and decides from what it finds.
 * @throws Conflict when it stays in conflict (20 tries); what `work` throws otherwise
 */
export async function retryOnConflict<T>(what: string, work: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await work();
    } catch (error) {
      if (!isCongerError(error, 'EtagConflictError', 'UnknownOutcomeError')) throw error;
      if (tries === maxTries)
        throw new CongerError('Conflict', `${what} is being changed by too many at once; try again`, {
          cause: error,
        });
    }
  }
}

/** What a delete throws where somebody else was first, as the conflict that it is: read again. */
export function staleIfGone(error: unknown): never {
  if (!isCongerError(error, 'ObjectNotFoundError')) throw error;
  throw new CongerError('EtagConflictError', 'the object is gone', { cause: error });
}

/**
 * Changes one object: `change` is given what is there (undefined: nothing) and answers the new value, or undefined to
 * leave it as it is. Nothing that was written in between is lost.
 * @returns the object's value as it now is
 */
export function updateObject<V>(
  kv: Kv,
  bucket: string,
  key: string,
  change: (present: KvObject<V> | undefined) => V | undefined | Promise<V | undefined>,
): Promise<V | undefined> {
  return retryOnConflict(`${bucket}/${key}`, async () => {
    const present = await kv.tryGet<V>(bucket, key);
    const next = await change(present);
    if (next === undefined) return present?.value;
    await kv.put(bucket, key, next, { etag: present?._etag ?? null });
    return next;
  });
}
