import { type Desired, desiredBucket } from '../../../agents/contract/desired.ts';
import type { Change } from '../../../changefeed/types.ts';
import type { BatchOp, Kv } from '../../../kvstore/types.ts';
import { desiredWrites } from '../../common/desired.ts';
import type { UnderlayRecord } from '../../common/records.ts';
import { networksBucket, nicsBucket, nudgesBucket, underlayBucket } from '../models/buckets.ts';
import type { NetworkRecord } from '../models/network.ts';
import type { NicRecord } from '../models/nic.ts';
import { overlayTag } from '../models/nic-tags.ts';
import { computeOverlays } from './compute.ts';

export const projectedBuckets = [
  nicsBucket.name,
  networksBucket.name,
  underlayBucket.name,
  nudgesBucket.name,
];

const everything = { noLimit: true } as const;

/**
 * The effect of changes on the nodes' overlays: what is to be written so that every touched owner's desired objects are
 * what its fabric networks and NICs ask for. Changes only tell whom they concern. A node's underlay address concerns
 * every owner with a NIC on it; owners live on other partitions, so each is nudged.
 */
export async function projectOverlays(kv: Kv, changes: readonly Change[]): Promise<BatchOp[]> {
  const owners = new Set<string>();
  const nodes = new Map<string, Change>();
  for (const change of changes) {
    if (change.bucket === underlayBucket.name) nodes.set(change.key, change);
    else for (const owner of ownersOf(change)) owners.add(owner);
  }
  const ops: BatchOp[] = [];
  for (const [node, change] of nodes) ops.push(...(await nudgeOwnersOn(kv, node, change)));
  for (const owner of owners) ops.push(...(await projectOwner(kv, owner)));
  return ops;
}

function ownersOf({ bucket, value, previous }: Change): string[] {
  const versions = [value, previous].filter((version) => version !== null) as Record<string, unknown>[];
  // NICs and networks that are on no fabric have no overlay.
  const concerned =
    bucket === nudgesBucket.name ? versions : versions.filter((version) => version.vnet_id !== undefined);
  return concerned.map((version) => version.owner_uuid as string);
}

async function nudgeOwnersOn(kv: Kv, node: string, change: Change): Promise<BatchOp[]> {
  const nics = await kv.find<NicRecord>(nicsBucket.name, `(cn_uuid=${node})`, everything);
  const owners = new Set(
    nics.objects.filter((nic) => nic.value.vnet_id !== undefined).map((nic) => nic.value.owner_uuid),
  );
  return [...owners].map((owner) => ({
    operation: 'put',
    bucket: nudgesBucket.name,
    key: owner,
    value: { owner_uuid: owner, cause: change.position },
  }));
}

async function projectOwner(kv: Kv, owner: string): Promise<BatchOp[]> {
  const [networks, nics, actual] = await Promise.all([
    kv.find<NetworkRecord>(networksBucket.name, `(&(owner_uuid=${owner})(fabric=true))`, everything),
    kv.find<NicRecord>(nicsBucket.name, `(&(owner_uuid=${owner})(nic_tag=${overlayTag}))`, everything),
    kv.find<Desired>(desiredBucket.name, `(&(owner_uuid=${owner})(kind=overlay))`, everything),
  ]);
  const placed = nics.objects.map((nic) => nic.value);
  const underlay = await underlayOf(
    kv,
    new Set(placed.map((nic) => nic.cn_uuid).filter((uuid) => uuid !== undefined)),
  );
  const wanted = computeOverlays(
    owner,
    networks.objects.map((network) => network.value),
    placed,
    underlay,
  );
  return desiredWrites(actual.objects, wanted);
}

async function underlayOf(kv: Kv, nodes: ReadonlySet<string>): Promise<Map<string, UnderlayRecord>> {
  if (nodes.size === 0) return new Map();
  const filter = `(|${[...nodes].map((node) => `(cn_uuid=${node})`).join('')})`;
  const found = await kv.find<UnderlayRecord>(underlayBucket.name, filter, everything);
  return new Map(found.objects.map((mapping) => [mapping.key, mapping.value]));
}
