import { type Desired, desiredBucket } from '../../../agents/contract/desired.ts';
import type { Apply, ConsumerContext } from '../../../changefeed/consumer.ts';
import type { Change } from '../../../changefeed/types.ts';
import type { BatchOp, Kv } from '../../../kvstore/types.ts';
import { bootstrapOwners } from '../../common/bootstrap.ts';
import { desiredWrites } from '../../common/desired.ts';
import { nudge } from '../../common/nudges.ts';
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
  const here = new Set<string>();
  const elsewhere = new Map<string, Change>();
  for (const change of changes) {
    const owners = change.bucket === underlayBucket.name ? await ownersOn(kv, change.key) : ownersOf(change);
    for (const owner of owners) {
      if (owner === change.partitionKey) here.add(owner);
      else elsewhere.set(owner, change);
    }
  }
  const ops = [...elsewhere].map(([owner, change]) => nudge(nudgesBucket, owner, change));
  for (const owner of here) ops.push(...(await projectOwner(kv, owner)));
  return ops;
}

/** Makes the overlays of every owner of a partition right. */
export function bootstrapOverlays(kv: Kv, context: ConsumerContext, apply: Apply): Promise<undefined> {
  return bootstrapOwners(kv, context, apply, {
    owners: [
      { bucket: networksBucket.name, filter: '(fabric=true)' },
      { bucket: desiredBucket.name, filter: '(kind=overlay)' },
    ],
    project: projectOwner,
  });
}

function ownersOf({ bucket, value, previous }: Change): string[] {
  const versions = [value, previous].filter((version) => version !== null) as Record<string, unknown>[];
  // NICs and networks that are on no fabric have no overlay.
  const concerned =
    bucket === nudgesBucket.name ? versions : versions.filter((version) => version.vnet_id !== undefined);
  return concerned.map((version) => version.owner_uuid as string);
}

/** The owners of the fabric NICs on a node. */
async function ownersOn(kv: Kv, node: string): Promise<Set<string>> {
  const nics = await kv.find<NicRecord>(nicsBucket.name, `(cn_uuid=${node})`, everything);
  return new Set(
    nics.objects.filter((nic) => nic.value.vnet_id !== undefined).map((nic) => nic.value.owner_uuid),
  );
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
