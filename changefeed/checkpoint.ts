import { z } from 'zod';
import type { BatchOp, Kv } from '../kvstore/types.ts';
import { isCongerError } from '../runtime/errors.ts';
import { failpoint } from '../runtime/failpoints.ts';
import { ensurePoisonBuckets } from './poison.ts';
import { START } from './position.ts';
import type { Cursor } from './types.ts';

export const checkpointBucket = 'conger_checkpoints';

/** What an object of `conger_checkpoints` holds; its key is `<consumer>/<partition>`. */
const checkpointSchema = z.object({
  v: z.literal(1),
  consumer: z.string(),
  partition: z.number().int(),
  /** Everything up to here has been applied; '' where nothing has. */
  position: z.string(),
  /** Where the log is read on from; may lie before the position, never behind it. '' is the log's start. */
  offset: z.string(),
  /** Whether the consumer's bootstrap has been done. */
  bootstrapped: z.boolean(),
  /** The assignment that holds the partition: a member's name and an id of its own. */
  owner: z.string(),
});

export type CheckpointValue = z.infer<typeof checkpointSchema>;

/** Another member has taken the partition over. */
export class PartitionLostError extends Error {
  constructor(key: string, owner: string) {
    super(`partition lost: ${key} belongs to ${owner}`);
    this.name = 'PartitionLostError';
  }
}

/** Makes the buckets of consumers: their checkpoints, which stay out of the changefeed, and what they put aside. */
export async function ensureConsumerBuckets(kv: Kv): Promise<void> {
  await kv.ensureBucket(checkpointBucket, {
    index: { consumer: { type: 'string' } },
    options: { version: 1, feed: false },
  });
  await ensurePoisonBuckets(kv);
}

/** A checkpoint where there is one. */
export async function readCheckpoint(
  kv: Kv,
  consumer: string,
  partition: number,
): Promise<CheckpointValue | undefined> {
  const found = await kv.tryGet<unknown>(checkpointBucket, keyOf(consumer, partition));
  return found === undefined ? undefined : checkpointSchema.parse(found.value);
}

/**
 * A checkpoint that one assignment holds. Its etag is the fence: whoever takes it over changes it, and from then on
 * nothing that is committed with the old one happens: every owner writes an id of its own. A batch that moves the place
 * changes the etag, too.
 */
export class Checkpoint {
  readonly #kv: Kv;
  readonly #key: string;
  #value: CheckpointValue;
  #etag: string;
  #inDoubt = false;

  private constructor(kv: Kv, key: string, value: CheckpointValue, etag: string) {
    this.#kv = kv;
    this.#key = key;
    this.#value = value;
    this.#etag = etag;
  }

  /** Takes the partition over from whoever holds it. `owner` must be used once only. */
  static async takeOver(kv: Kv, consumer: string, partition: number, owner: string): Promise<Checkpoint> {
    const key = keyOf(consumer, partition);
    for (;;) {
      const found = await kv.tryGet<unknown>(checkpointBucket, key);
      const before = found === undefined ? undefined : checkpointSchema.parse(found.value);
      const value: CheckpointValue = {
        v: 1,
        consumer,
        partition,
        position: before?.position ?? START,
        offset: before?.offset ?? '',
        bootstrapped: before?.bootstrapped ?? false,
        owner,
      };
      try {
        await failpoint('checkpoint.takeover.before');
        const { etag } = await kv.put(checkpointBucket, key, value, { etag: found?._etag ?? null });
        await failpoint('checkpoint.takeover.after');
        return new Checkpoint(kv, key, value, etag);
      } catch (error) {
        // Somebody else wrote it in between: what it holds now is what to take over.
        if (!isCongerError(error, 'EtagConflictError', 'UnknownOutcomeError')) throw error;
      }
    }
  }

  get value(): CheckpointValue {
    return this.#value;
  }

  /**
   * Whether a commit may have happened that was not seen to, or may happen yet. Who takes the checkpoint over makes it
   * certain; until then nothing is to be computed or committed.
   */
  get inDoubt(): boolean {
    return this.#inDoubt;
  }

  /** Records that the bootstrap is done, together with what it wrote. @throws as `advance` */
  bootstrapped(ops: readonly BatchOp[]): Promise<void> {
    return this.#commit(ops, { ...this.#value, bootstrapped: true });
  }

  /**
   * Commits `ops` and leaves the place as it is.
   * @throws as `advance`
   */
  fence(ops: readonly BatchOp[]): Promise<void> {
    return this.#commit(ops, this.#value);
  }

  /**
   * Commits `ops` and the new place in one batch.
   * @throws PartitionLostError where another assignment holds the partition: nothing was written
   * @throws what the batch threw otherwise (EtagConflictError: one of `ops`): nothing was written, and it is safe to try
   * again, or the checkpoint is in doubt
   */
  advance(ops: readonly BatchOp[], { position, offset }: Cursor): Promise<void> {
    return this.#commit(ops, { ...this.#value, position, offset });
  }

  async #commit(ops: readonly BatchOp[], value: CheckpointValue): Promise<void> {
    const put = {
      operation: 'put',
      bucket: checkpointBucket,
      key: this.#key,
      value,
      etag: this.#etag,
    } as const;
    try {
      await failpoint('checkpoint.commit.before');
      const { etags } = await this.#kv.batch([...ops, put]);
      await failpoint('checkpoint.commit.after');
      const etag = etags.at(-1);
      if (typeof etag !== 'string') throw new Error('the batch answered no etag for the checkpoint');
      this.#etag = etag;
    } catch (error) {
      this.#etag = await this.#settle(value, error);
    }
    this.#value = value;
  }

  /**
   * What became of a batch that failed, as the checkpoint itself tells: answers its etag where it was committed. That
   * it is as it was tells nothing where the outcome is unknown: the batch may be on its way.
   */
  async #settle(value: CheckpointValue, error: unknown): Promise<string> {
    this.#inDoubt = !isCongerError(error) || error.code === 'UnknownOutcomeError';
    await failpoint('checkpoint.settle.before');
    const found = await this.#kv.tryGet<unknown>(checkpointBucket, this.#key);
    if (found === undefined) throw new PartitionLostError(this.#key, 'nobody');
    if (found._etag === this.#etag) throw error;
    const now = checkpointSchema.parse(found.value);
    const committed =
      now.owner === value.owner && now.position === value.position && now.bootstrapped === value.bootstrapped;
    if (!committed) throw new PartitionLostError(this.#key, now.owner);
    this.#inDoubt = false;
    return found._etag;
  }
}

function keyOf(consumer: string, partition: number): string {
  return `${consumer}/${partition}`;
}
