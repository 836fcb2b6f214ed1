import type { Change } from '../../changefeed/types.ts';
import type { BatchOp } from '../../kvstore/types.ts';
import type { BucketDefinition } from './records.ts';

/**
 * Nudges to look at an owner again; key = owner. What is derived for an owner is written by the consumer of the owner's
 * partition alone, so a change on another partition that concerns the owner is answered with a nudge, which is a change
 * on the owner's.
 */
export function nudgesBucketOf(service: string): BucketDefinition {
  return {
    name: `${service}_nudges`,
    config: { index: { owner_uuid: { type: 'string' } }, options: { version: 1, partition: 'owner_uuid' } },
  };
}

/** Nudges an owner because of a change. */
export function nudge(bucket: BucketDefinition, owner: string, { position }: Change): BatchOp {
  const value = { owner_uuid: owner, cause: position };
  return { operation: 'put', bucket: bucket.name, key: owner, value };
}
