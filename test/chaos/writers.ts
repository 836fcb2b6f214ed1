import { setTimeout as sleep } from 'node:timers/promises';
import { partitionOf } from '../../changefeed/change.ts';
import type { BatchOp, Kv } from '../../kvstore/types.ts';
import { isCongerError, messageOf } from '../../runtime/errors.ts';
import type { Random } from '../random.ts';
import { until } from '../until.ts';
import type { Write, WriteOp } from './history.ts';
import { patienceMs } from './patience.ts';
import { bucket, type Value } from './resources.ts';

/** Answers that say that a write was not done. After any other error it may have been. */
const notDone = ['EtagConflictError', 'ObjectNotFoundError', 'UniqueAttributeError'] as const;

const mark = 'mark';

/** Whether it is the key of what `mark` writes. */
export function isMark(key: string): boolean {
  return key.endsWith(`/${mark}`);
}

const owners = 10;
const keysOfOwner = 4;

/** A write that is to be made: how it is recorded, and the call. */
interface Intent {
  readonly ops: readonly WriteOp[];
  readonly call: () => Promise<unknown>;
}

/**
 * Writers of one run: each makes one call at a time, of a kind that follows from the seed, and records what became of
 * it. No two values are equal, so that a change can be told from every other.
 */
export class Writers {
  readonly writes: Write[] = [];
  readonly #kv: Kv;
  readonly #began = performance.now();
  #serial = 0;

  readonly #padding: string;

  /** @param padding bytes that each value of a large batch has besides */
  constructor(kv: Kv, padding = 0) {
    this.#kv = kv;
    this.#padding = 'x'.repeat(padding);
  }

  /** Calls that were answered, well or with an error about the object. */
  get answered(): number {
    return this.writes.filter(({ outcome }) => outcome !== 'unknown').length;
  }

  /** One writer, until `signal`; the call under way is finished. */
  async work(writer: number, random: Random, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#make(writer, await this.#next(random));
      await sleep(random.below(12));
    }
  }

  /** Writes one object into each partition, after all else. */
  async mark(partitions: number): Promise<void> {
    const left = new Set(Array.from({ length: partitions }, (_, p) => p));
    for (let n = 0; left.size > 0; n++) {
      const owner = `mark${n}`;
      const partition = partitionOf(owner, partitions);
      if (!left.delete(partition)) continue;
      const intent = this.#put(`${owner}/${mark}`, owner);
      await until(`${owner} is written`, async () => (await this.#make(-1, intent)) === 'ok', patienceMs);
    }
  }

  async #make(writer: number, { ops, call }: Intent): Promise<Write['outcome']> {
    const now = () => performance.now() - this.#began;
    const invoked = now();
    let outcome: Write['outcome'] = 'ok';
    let failure: string | undefined;
    try {
      await call();
    } catch (error) {
      outcome = isCongerError(error, ...notDone) ? 'failed' : 'unknown';
      failure = messageOf(error);
    }
    this.writes.push({
      writer,
      invoked,
      ended: now(),
      outcome,
      ops,
      ...(failure === undefined ? {} : { error: failure }),
    });
    return outcome;
  }

  async #next(random: Random): Promise<Intent> {
    const owner = `owner${random.below(owners)}`;
    const key = `${owner}/${random.below(keysOfOwner)}`;
    const choice = random.below(1_000);
    if (choice < 350) return this.#put(key, owner);
    if (choice < 600) return this.#update(key, owner);
    if (choice < 680) return this.#put(key, owner, null);
    if (choice < 760) return this.#delete(key, true);
    if (choice < 800) return this.#delete(key, false);
    if (choice < 915) return this.#batch(random, [owner], 2 + random.below(3));
    if (choice < 990)
      return this.#batch(random, [owner, `owner${random.below(owners)}`], 2 + random.below(6));
    return this.#batch(random, [owner, `owner${random.below(owners)}`], 150 + random.below(150));
  }

  #value(owner: string): Value {
    return { owner, id: `v${++this.#serial}` };
  }

  #put(key: string, owner: string, wants?: null): Intent {
    const value = this.#value(owner);
    const condition = wants === undefined ? {} : { wants };
    return {
      ops: [{ op: 'put', key, id: value.id, ...condition }],
      call: () => this.#kv.put(bucket, key, value, wants === undefined ? {} : { etag: wants }),
    };
  }

  async #update(key: string, owner: string): Promise<Intent> {
    const found = await this.#kv.tryGet<Value>(bucket, key).catch(() => undefined);
    if (found === undefined) return this.#put(key, owner);
    const value = this.#value(owner);
    return {
      ops: [{ op: 'put', key, id: value.id, wants: found.value.id }],
      call: () => this.#kv.put(bucket, key, value, { etag: found._etag }),
    };
  }

  async #delete(key: string, conditional: boolean): Promise<Intent> {
    const found = conditional ? await this.#kv.tryGet<Value>(bucket, key).catch(() => undefined) : undefined;
    const wants = found === undefined ? {} : { wants: found.value.id };
    return {
      ops: [{ op: 'delete', key, id: null, ...wants }],
      call: () => this.#kv.del(bucket, key, found === undefined ? {} : { etag: found._etag }),
    };
  }

  /** Puts of distinct keys; many of them are keys of their own. */
  #batch(random: Random, of: readonly string[], count: number): Intent {
    const big = count > 50;
    const serial = ++this.#serial;
    const puts = new Map<string, Value>();
    for (let i = 0; i < count; i++) {
      const owner = of[i % of.length]!;
      puts.set(
        big ? `${owner}/big${serial}.${i}` : `${owner}/${random.below(keysOfOwner)}`,
        big && this.#padding !== '' ? { ...this.#value(owner), padding: this.#padding } : this.#value(owner),
      );
    }
    const ops: BatchOp[] = [...puts].map(([key, value]) => ({ operation: 'put', bucket, key, value }));
    return {
      ops: [...puts].map(([key, { id }]) => ({ op: 'put', key, id })),
      call: () => this.#kv.batch(ops),
    };
  }
}
