import type { Kv } from '../../kvstore/types.ts';

/** What writers write, by `owner`. */
export const bucket = 'chaos';
/** Nobody writes it: its feed has bookmarks only. */
export const idleBucket = 'chaos_idle';
/** What the consumers have done: an object for each batch of effects. */
export const ledgerBucket = 'chaos_ledger';

export interface Value {
  readonly owner: string;
  /** Of this value alone. */
  readonly id: string;
  readonly padding?: string;
}

export async function ensureBuckets(kv: Kv): Promise<void> {
  const index = { owner: { type: 'string' } } as const;
  await kv.ensureBucket(bucket, { index, options: { version: 1, partition: 'owner' } });
  await kv.ensureBucket(idleBucket, { index, options: { version: 1, partition: 'owner' } });
  await kv.ensureBucket(ledgerBucket, {
    index: { kind: { type: 'string' } },
    options: { version: 1, feed: false },
  });
}
