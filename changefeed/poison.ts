import { createHash } from 'node:crypto';
import { z } from 'zod';
import type { BatchOp, Kv } from '../kvstore/types.ts';
import { CongerError } from '../runtime/errors.ts';
import type { LogRecord, Position } from './types.ts';

/** What consumers could not apply, and what waits behind it. */
export const poisonBucket = 'conger_poison';
/** Requests to try again. They are in the feed, and by their partition key come to whoever owns what they are about. */
export const requestBucket = 'conger_poison_requests';

/** A partition key of which one consumer applies nothing, until its first change is replayed or dropped. */
const heldKeySchema = z.object({
  v: z.literal(1),
  kind: z.literal('key'),
  held: z.string(),
  consumer: z.string(),
  partition: z.number().int(),
  partition_key: z.string(),
  /** Of the change that cannot be applied: the first that waits. */
  position: z.string(),
  reason: z.string(),
  tries: z.number().int(),
  /** When it was put aside, or last replayed in vain; milliseconds since 1970. */
  time: z.number(),
  /** How many changes wait, with the first. */
  count: z.number().int(),
});

/** One change that waits. */
const heldChangeSchema = z.object({
  v: z.literal(1),
  kind: z.literal('change'),
  held: z.string(),
  consumer: z.string(),
  partition: z.number().int(),
  partition_key: z.string(),
  position: z.string(),
  xid: z.string(),
  index: z.number().int(),
  count: z.number().int(),
  time: z.number(),
  /** The change's body as base64; null where it is too large for an object. */
  body: z.string().nullable(),
  /** What it changed; null where the body cannot be read. */
  bucket: z.string().nullable(),
  key: z.string().nullable(),
});

/** A request, as the value of its object. */
export const requestSchema = z.object({
  v: z.literal(1),
  consumer: z.string(),
  partition_key: z.string(),
  /** `replay`: apply what waits, in order. `drop`: leave out the change at `position` first. `drop-all`: all. */
  action: z.enum(['replay', 'drop', 'drop-all']),
  position: z.string(),
});

export type HeldKey = z.infer<typeof heldKeySchema>;
export type HeldChange = z.infer<typeof heldChangeSchema>;
export type PoisonRequest = z.infer<typeof requestSchema>;

/** Bodies of this many bytes fit an object, as base64, beside the rest. */
const maxBodyBytes = 2 * 1024 * 1024;
const maxReason = 2_000;

export async function ensurePoisonBuckets(kv: Kv): Promise<void> {
  await kv.ensureBucket(poisonBucket, {
    index: {
      consumer: { type: 'string' },
      partition: { type: 'number' },
      kind: { type: 'string' },
      held: { type: 'string' },
      position: { type: 'string' },
    },
    options: { version: 1, feed: false },
  });
  await kv.ensureBucket(requestBucket, {
    index: { consumer: { type: 'string' } },
    options: { version: 1, partition: 'partition_key' },
  });
}

/** The keys that are held, of all consumers or of one. */
export async function listHeld(kv: Kv, consumer?: string): Promise<HeldKey[]> {
  const filter = consumer === undefined ? '(kind=key)' : `(&(kind=key)(consumer=${consumer}))`;
  const { objects } = await kv.find(poisonBucket, filter, { noLimit: true });
  return objects.map(({ value }) => heldKeySchema.parse(value));
}

/** The first changes that wait for a key, in order; behind `from`. */
export async function readHeld(kv: Kv, held: string, limit: number, from = ''): Promise<HeldChange[]> {
  const behind = from === '' ? '' : `(position>=${from})(!(position=${from}))`;
  const { objects } = await kv.find(poisonBucket, `(&(kind=change)(held=${held})${behind})`, {
    sort: { attribute: 'position', order: 'ASC' },
    limit,
  });
  return objects.map(({ value }) => heldChangeSchema.parse(value));
}

/** Names a key of a consumer; safe in keys and filters. */
export function heldName(consumer: string, partition: number, partitionKey: string): string {
  const digest = createHash('sha256').update(partitionKey).digest('hex').slice(0, 32);
  return `${consumer}/${partition}/${digest}`;
}

/** The record that waits; its body is empty where it was too large to be kept. */
export function recordOf(change: HeldChange): LogRecord {
  const { position, partition, xid, index, count, time } = change;
  const body = Buffer.from(change.body ?? '', 'base64');
  return { position, partition, partitionKey: change.partition_key, xid, index, count, time, body };
}

/** What a consumer has in hand of a record when it puts it aside. */
export interface Aside {
  readonly record: LogRecord;
  readonly bucket: string | null;
  readonly key: string | null;
}

/** Why a change is put aside, for the first one of a key. */
export interface Reason {
  readonly reason: string;
  readonly tries: number;
}

/** Writes, and what is to be done once they are committed. */
export interface Plan {
  readonly ops: readonly BatchOp[];
  readonly done: () => void;
}

/**
 * The keys that one assignment of a partition holds back. It is read when the partition is taken over, and all that
 * changes it is committed under the checkpoint's etag; so it is what the store has, for as long as the assignment lasts.
 */
export class HeldKeys {
  readonly #consumer: string;
  readonly #partition: number;
  readonly #keys: Map<string, HeldKey>;

  private constructor(consumer: string, partition: number, keys: readonly HeldKey[]) {
    this.#consumer = consumer;
    this.#partition = partition;
    this.#keys = new Map(keys.map((key) => [key.partition_key, key]));
  }

  /** To be called after the checkpoint was taken over. */
  static async read(kv: Kv, consumer: string, partition: number): Promise<HeldKeys> {
    const filter = `(&(kind=key)(consumer=${consumer})(partition=${partition}))`;
    const { objects } = await kv.find(poisonBucket, filter, { noLimit: true });
    return new HeldKeys(
      consumer,
      partition,
      objects.map(({ value }) => heldKeySchema.parse(value)),
    );
  }

  get(partitionKey: string): HeldKey | undefined {
    return this.#keys.get(partitionKey);
  }

  get size(): number {
    return this.#keys.size;
  }

  /** Changes that wait, over all keys. */
  get changes(): number {
    let sum = 0;
    for (const { count } of this.#keys.values()) sum += count;
    return sum;
  }

  /** Puts changes behind what waits for their keys; a key that nothing waits for is held from now on, for `why`. */
  add(changes: readonly Aside[], why: (change: Aside) => Reason): Plan {
    const keys = new Map<string, HeldKey>();
    const ops = changes.map((change): BatchOp => {
      const { partitionKey, position } = change.record;
      const held = heldName(this.#consumer, this.#partition, partitionKey);
      const before = keys.get(partitionKey) ?? this.#keys.get(partitionKey);
      keys.set(
        partitionKey,
        before === undefined
          ? this.#first(partitionKey, held, position, why(change))
          : { ...before, count: before.count + 1 },
      );
      const value = this.#value(change, held);
      return { operation: 'put', bucket: poisonBucket, key: `${held}/${position}`, value };
    });
    return {
      ops: [...ops, ...[...keys.values()].map(putKey)],
      done: () => {
        for (const [partitionKey, key] of keys) this.#keys.set(partitionKey, key);
      },
    };
  }

  /** Takes changes out that were applied or dropped; the key itself stays held. */
  take(key: HeldKey, changes: readonly HeldChange[]): Plan {
    const after = { ...key, count: Math.max(0, key.count - changes.length) };
    return {
      ops: [
        ...changes.map(
          ({ held, position }): BatchOp => ({
            operation: 'delete',
            bucket: poisonBucket,
            key: `${held}/${position}`,
          }),
        ),
        putKey(after),
      ],
      done: () => this.#keys.set(key.partition_key, after),
    };
  }

  /** Notes why the first change that waits was not applied this time either. */
  fail(key: HeldKey, position: Position, { reason, tries }: Reason): Plan {
    const after = { ...key, position, reason: cut(reason), tries: key.tries + tries, time: Date.now() };
    return { ops: [putKey(after)], done: () => this.#keys.set(key.partition_key, after) };
  }

  /** Nothing waits for the key any more. */
  release(key: HeldKey): Plan {
    return {
      ops: [{ operation: 'delete', bucket: poisonBucket, key: key.held }],
      done: () => this.#keys.delete(key.partition_key),
    };
  }

  #first(partitionKey: string, held: string, position: Position, { reason, tries }: Reason): HeldKey {
    return {
      v: 1,
      kind: 'key',
      held,
      consumer: this.#consumer,
      partition: this.#partition,
      partition_key: partitionKey,
      position,
      reason: cut(reason),
      tries,
      time: Date.now(),
      count: 1,
    };
  }

  #value({ record, bucket, key }: Aside, held: string): HeldChange {
    const { position, partitionKey, xid, index, count, time, body } = record;
    return {
      v: 1,
      kind: 'change',
      held,
      consumer: this.#consumer,
      partition: this.#partition,
      partition_key: partitionKey,
      position,
      xid,
      index,
      count,
      time,
      body: body.length <= maxBodyBytes ? body.toString('base64') : null,
      bucket,
      key,
    };
  }
}

function putKey(key: HeldKey): BatchOp {
  return { operation: 'put', bucket: poisonBucket, key: key.held, value: key };
}

function cut(reason: string): string {
  return reason.length <= maxReason ? reason : `${reason.slice(0, maxReason)}…`;
}

/** Whether an error says that something is not there at the moment: it tells nothing about the change at hand. */
export function isAway(error: unknown): boolean {
  for (let e = error, depth = 0; e instanceof Error && depth < 5; e = e.cause, depth++) {
    if (e instanceof CongerError) return e.status === 503;
    if ('syscall' in e || e.name === 'AbortError' || e.name === 'TimeoutError') return true;
    if ('code' in e && typeof e.code === 'string' && /^E[A-Z]+$/.test(e.code)) return true;
  }
  return false;
}
