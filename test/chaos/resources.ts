import type { Kv } from '../../kvstore/types.ts';

/** What writers write, by `owner`. */
export const bucket = 'chaos';
/** Nobody writes it: its feed has bookmarks only. */
export const idleBucket = 'chaos_idle';
/** What the consumers have done: an object for each batch of effects, and for each partition how many there are. */
export const ledgerBucket = 'chaos_ledger';

export interface Value {
  readonly owner: string;
  /** Of this value alone. */
  readonly id: string;
}

export interface LedgerHead {
  readonly entries: number;
  readonly member: string;
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

/** Where the n-th entry of a partition's ledger is. */
export function entryKey(partition: number, n: number): string {
  return `${partition}/${String(n).padStart(8, '0')}`;
}

export function headKey(partition: number): string {
  return `head/${partition}`;
}
