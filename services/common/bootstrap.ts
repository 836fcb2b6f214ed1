import { partitionOf } from '../../changefeed/change.ts';
import type { Apply, ConsumerContext } from '../../changefeed/consumer.ts';
import type { BatchOp, Kv } from '../../kvstore/types.ts';

/** Objects that have an indexed `owner_uuid`: those of `bucket` that `filter` matches. */
export interface OwnedObjects {
  readonly bucket: string;
  readonly filter: string;
}

export interface OwnersBootstrap {
  /** Whoever owns any of these is looked at. */
  readonly owners: readonly OwnedObjects[];
  /** The writes that make right what is derived for one owner; none where it is. */
  readonly project: (kv: Kv, owner: string) => Promise<readonly BatchOp[]>;
}

/** Objects that are read at once to find owners. */
const pageSize = 500;

/**
 * The bootstrap of a projection: projects every owner of the partition from what there is, and commits one owner at a
 * time, so that no batch is larger than one that follows a change.
 */
export async function bootstrapOwners(
  kv: Kv,
  { partition, partitions }: ConsumerContext,
  apply: Apply,
  { owners, project }: OwnersBootstrap,
): Promise<undefined> {
  const mine = new Set<string>();
  for (const objects of owners) {
    for await (const owner of ownersOf(kv, objects)) {
      if (partitionOf(owner, partitions) === partition) mine.add(owner);
    }
  }
  for (const owner of mine) await apply(() => project(kv, owner));
  return undefined;
}

/** Each owner at least once. An owner whose first object comes meanwhile may be missing: a change tells of it. */
async function* ownersOf(kv: Kv, { bucket, filter }: OwnedObjects): AsyncGenerator<string> {
  let beyond = '(owner_uuid=*)';
  for (;;) {
    const { objects } = await kv.find<{ readonly owner_uuid: string }>(bucket, `(&${beyond}${filter})`, {
      sort: { attribute: 'owner_uuid', order: 'ASC' },
      limit: pageSize,
    });
    for (const { value } of objects) yield value.owner_uuid;
    const last = objects.at(-1)?.value.owner_uuid;
    if (last === undefined || objects.length < pageSize) return;
    beyond = `(owner_uuid>=${last})(!(owner_uuid=${last}))`;
  }
}
