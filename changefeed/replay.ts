import type { BatchOp } from '../kvstore/types.ts';
import { messageOf } from '../runtime/errors.ts';
import { parseChange, UnreadableChangeError } from './change.ts';
import type { Holding, Item } from './holding.ts';
import {
  type HeldChange,
  type HeldKey,
  heldName,
  type PoisonRequest,
  readHeld,
  recordOf,
  requestBucket,
  requestSchema,
} from './poison.ts';
import type { Change, Cursor } from './types.ts';

/** A request to try again what waits for a partition key, and the key of the object that asks. */
export interface Request {
  readonly key: string;
  readonly value: PoisonRequest;
}

/** The request in a record of the log; undefined where it is something else, or no request that can be read. */
export function requestIn({ change }: Item): Request | undefined {
  if (change?.bucket !== requestBucket || change.op !== 'put') return undefined;
  const { success, data } = requestSchema.safeParse(change.value);
  return success ? { key: change.key, value: data } : undefined;
}

/**
 * Does what a request asks: drops what is to be dropped, and applies what waits, in order, each effect in one batch
 * with the removal of what it was of. Ends at the first change that fails again, which then keeps its key. The request
 * is removed with the place behind it, so that another assignment goes on where this one ended.
 */
export class Replay {
  readonly #holding: Holding;
  readonly #request: Request;

  constructor(holding: Holding, request: Request) {
    this.#holding = holding;
    this.#request = request;
  }

  async run(place: Cursor): Promise<void> {
    const { heldKeys, log, kv } = this.#holding;
    const { partition_key: partitionKey, action } = this.#request.value;
    const { partition } = this.#holding.context;
    const key = heldKeys.get(partitionKey);
    const plan = key !== undefined && (await this.#clear(key)) ? heldKeys.release(key) : undefined;
    await this.#holding.fresh(async () => {
      const asked = await kv.tryGet(requestBucket, this.#request.key);
      const remove: BatchOp = { operation: 'delete', bucket: requestBucket, key: this.#request.key };
      const ops = asked === undefined ? [] : [remove];
      await this.#holding.advance([...(plan?.ops ?? []), ...ops], place);
    });
    plan?.done();
    if (plan !== undefined) log.info({ partition, partitionKey, action }, 'what was put aside is dealt with');
  }

  /** Whether nothing is left. */
  async #clear(key: HeldKey): Promise<boolean> {
    const { kv, checkpoint, heldKeys, options } = this.#holding;
    const { action, position } = this.#request.value;
    const held = heldName(key.consumer, key.partition, key.partition_key);
    for (;;) {
      const changes = await readHeld(kv, held, options.maxChanges);
      if (changes.length === 0) return true;
      const dropped = changes.filter((change) => action === 'drop-all' || drops(action, position, change));
      if (dropped.length > 0) {
        const plan = heldKeys.take(heldKeys.get(key.partition_key) ?? key, dropped);
        await checkpoint.fence(plan.ops);
        plan.done();
      } else if (!(await this.#apply(key, changes))) {
        return false;
      }
    }
  }

  /** Whether all were applied: together, or one by one. */
  async #apply(key: HeldKey, changes: readonly HeldChange[]): Promise<boolean> {
    const { heldKeys, checkpoint, log } = this.#holding;
    const many = changes.length > 1;
    const failed = await this.#holding.attempt(() => this.#commit(key, changes), many);
    if (failed === undefined) return true;
    if (many) {
      for (const change of changes) if (!(await this.#apply(key, [change]))) return false;
      return true;
    }
    const reason = messageOf(failed.error);
    const position = changes[0]?.position ?? key.position;
    const plan = heldKeys.fail(heldKeys.get(key.partition_key) ?? key, position, {
      reason,
      tries: failed.tries,
    });
    await checkpoint.fence(plan.ops);
    plan.done();
    const { partition, partition_key: partitionKey } = key;
    log.error({ partition, position, partitionKey }, `a change was replayed and stays aside: ${reason}`);
    return false;
  }

  async #commit(key: HeldKey, held: readonly HeldChange[]): Promise<void> {
    const { heldKeys, checkpoint } = this.#holding;
    const plan = heldKeys.take(heldKeys.get(key.partition_key) ?? key, held);
    const changes = await Promise.all(held.map((change) => this.#read(change)));
    await this.#holding.effect(changes, async (ops) => {
      await checkpoint.fence([...ops, ...plan.ops]);
      plan.done();
    });
  }

  /** The change as it was; one that was too large to be kept, as its object is now. */
  async #read(held: HeldChange): Promise<Change> {
    const record = recordOf(held);
    if (held.body !== null) return parseChange(record);
    if (held.bucket === null || held.key === null) {
      throw new UnreadableChangeError(record, 'it was too large to be kept, and could not be read');
    }
    const { body: _body, ...place } = record;
    const now = await this.#holding.kv.tryGet(held.bucket, held.key);
    return {
      ...place,
      v: 1,
      bucket: held.bucket,
      key: held.key,
      op: now === undefined ? 'delete' : 'put',
      etag: now?._etag ?? null,
      value: now?.value ?? null,
      previous: null,
      requestId: null,
      traceparent: null,
    };
  }
}

function drops(action: PoisonRequest['action'], position: string, change: HeldChange): boolean {
  return action === 'drop' && change.position === position;
}
