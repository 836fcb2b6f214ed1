import { setTimeout as sleep } from 'node:timers/promises';
import type { Random } from '../random.ts';
import type { Client } from './client.ts';
import type { Operation } from './history.ts';

/** Operations on an object before it makes way for another, by the place that it has: some live through many faults. */
const lifetimes = [100, 250, 600, 1_500];
/** Each operation of an unknown outcome doubles what a checker may have to try. */
const maxUnknown = 8;

/** Few objects at a time, so that clients meet; and none for ever, so that a checker can decide. */
export class Keys {
  readonly #live = lifetimes.map((_, place) => ({ place, number: 0, operations: 0, unknown: 0 }));
  readonly #etags = new Map<string, string>();
  readonly all = new Set<string>();

  pick(random: Random): string {
    const { place, number } = random.pick(this.#live);
    const key = `k${place}.${number}`;
    this.all.add(key);
    return key;
  }

  /** The etag that was last seen there, by any client. */
  etagOf(key: string): string | undefined {
    return this.#etags.get(key);
  }

  ended(operation: Operation): void {
    const { key, op, outcome, etag, foundEtag } = operation;
    const seen = op === 'put' && outcome === 'ok' ? etag : foundEtag;
    if (seen !== undefined) this.#etags.set(key, seen);
    const live = this.#live.find(({ place, number }) => key === `k${place}.${number}`);
    if (live === undefined) return;
    live.operations++;
    if (outcome === 'unknown' && op !== 'get') live.unknown++;
    if (live.operations < (lifetimes[live.place] ?? 0) && live.unknown < maxUnknown) return;
    Object.assign(live, { number: live.number + 1, operations: 0, unknown: 0 });
  }
}

function next(
  client: Client,
  key: string,
  keys: Keys,
  random: Random,
  readsOnly: boolean,
): Promise<Operation> {
  const etag = keys.etagOf(key) ?? '00000000';
  const choice = readsOnly ? 0 : random.below(100);
  if (choice < 35) return client.get(key);
  if (choice < 55) return client.put(key, { check: 'any' });
  if (choice < 77) return client.put(key, { check: 'etag', want: etag });
  if (choice < 87) return client.put(key, { check: 'none' });
  if (choice < 94) return client.delete(key, { check: 'any' });
  return client.delete(key, { check: 'etag', want: etag });
}

/**
 * One client's share of the work: one operation after the other, with pauses of 0 to 8 ms, until `signal`.
 * @param readsOnly no writes: where these hang, reads may still be answered, and must not be from the past
 */
export async function work(
  client: Client,
  keys: Keys,
  random: Random,
  signal: AbortSignal,
  readsOnly: boolean,
): Promise<void> {
  while (!signal.aborted) {
    const operation = await next(client, keys.pick(random), keys, random, readsOnly);
    keys.ended(operation);
    await sleep(random.below(8) + (operation.outcome === 'failed' ? 20 : 0));
  }
}
