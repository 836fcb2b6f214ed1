import { randomUUID } from 'node:crypto';
import type { BatchOp, Kv } from '../../../kvstore/types.ts';
import { turnsBucket } from './buckets.ts';

/**
 * What may only be decided one at a time: whoever reads a turn before it looks, and takes it in the batch with what it
 * decided, is refused (EtagConflictError) where somebody else decided in between, and looks again.
 */
export async function readTurn(kv: Kv, name: string): Promise<BatchOp> {
  const present = await kv.tryGet(turnsBucket.name, name);
  return {
    operation: 'put',
    bucket: turnsBucket.name,
    key: name,
    value: { taken_by: randomUUID() },
    etag: present?._etag ?? null,
  };
}

/** The turn of those that change which networks there are on a fabric, or on none. */
export function networksTurn(vnetId: number | undefined): string {
  return vnetId === undefined ? 'networks' : `networks of vnet ${vnetId}`;
}
