import { isDeepStrictEqual } from 'node:util';
import { type Desired, desiredBucket } from '../../../agents/contract/desired.ts';
import type { Apply, ConsumerContext } from '../../../changefeed/consumer.ts';
import type { Change } from '../../../changefeed/types.ts';
import type { BatchOp, Kv, KvObject } from '../../../kvstore/types.ts';
import { bootstrapOwners } from '../../common/bootstrap.ts';
import { desiredWrites } from '../../common/desired.ts';
import { nudge, nudgesBucketOf } from '../../common/nudges.ts';
import { type VmRecord, vmsBucket } from '../../common/records.ts';
import { type RuleRecord, ruleOfRecord, rulesBucket } from '../models/rule.ts';
import { computeFirewall } from './compute.ts';

/** A global rule concerns every owner, and owners live on other partitions than the rule. */
export const nudgesBucket = nudgesBucketOf('fwapi');

export const projectedBuckets = [vmsBucket.name, rulesBucket.name, nudgesBucket.name];

const relevant = ['owner_uuid', 'server_uuid', 'state', 'firewall_enabled', 'tag_map', 'nics'] as const;

/**
 * The effect of changes on the nodes' firewall: what is to be written so that every touched owner's desired objects
 * are what its VMs and rules ask for. It takes no content from the changes, only whom they concern; what is desired
 * comes from the store, which shows at least these changes.
 */
export async function projectFirewall(kv: Kv, changes: readonly Change[]): Promise<BatchOp[]> {
  const here = new Set<string>();
  const elsewhere = new Map<string, Change>();
  for (const change of changes) {
    for (const owner of ownersOf(change)) {
      if (owner === undefined) for (const every of await ownersOfVms(kv)) elsewhere.set(every, change);
      else if (owner === change.partitionKey) here.add(owner);
      else elsewhere.set(owner, change);
    }
  }
  const ops = [...elsewhere].map(([owner, change]) => nudge(nudgesBucket, owner, change));
  for (const owner of here) ops.push(...(await projectOwner(kv, owner)));
  return ops;
}

const firewallKinds = '(|(kind=firewall-vm)(kind=firewall-rule))';

/** Makes the desired objects of every owner of a partition right. Rules alone, without a machine, ask for nothing. */
export function bootstrapFirewall(kv: Kv, context: ConsumerContext, apply: Apply): Promise<undefined> {
  return bootstrapOwners(kv, context, apply, {
    owners: [
      { bucket: vmsBucket.name, filter: '(!(state=destroyed))' },
      { bucket: desiredBucket.name, filter: firewallKinds },
    ],
    project: projectOwner,
  });
}

/** Whom a change concerns: owners, or undefined for everyone. */
function ownersOf(change: Change): (string | undefined)[] {
  const versions = [change.value, change.previous].filter((value) => value !== null) as Record<
    string,
    unknown
  >[];
  if (change.bucket === rulesBucket.name) return versions.map((rule) => rule.owner as string | undefined);
  if (change.bucket === vmsBucket.name && versions.length === 2) {
    const [now, before] = versions;
    if (relevant.every((field) => isDeepStrictEqual(now?.[field], before?.[field]))) return [];
  }
  return versions.map((value) => value.owner_uuid as string);
}

async function ownersOfVms(kv: Kv): Promise<Set<string>> {
  const found = await kv.find<VmRecord>(vmsBucket.name, '(&(owner_uuid=*)(!(state=destroyed)))', {
    noLimit: true,
  });
  return new Set(found.objects.map((object) => object.value.owner_uuid));
}

/** The writes that make one owner's desired objects right; none where they are. */
export async function projectOwner(kv: Kv, owner: string): Promise<BatchOp[]> {
  const everything = { noLimit: true } as const;
  const [vms, rules, actual] = await Promise.all([
    kv.find<VmRecord>(vmsBucket.name, `(&(owner_uuid=${owner})(!(state=destroyed)))`, everything),
    kv.find<RuleRecord>(rulesBucket.name, `(&(enabled=true)(|(owner=${owner})(!(owner=*))))`, everything),
    kv.find<Desired>(desiredBucket.name, `(&(owner_uuid=${owner})${firewallKinds})`, everything),
  ]);
  const wanted = computeFirewall(
    owner,
    vms.objects.map((object) => object.value),
    rules.objects.map((object) => ruleOfRecord(object.value)),
  );
  const others = await underSameKeys(kv, wanted, new Set(actual.objects.map((object) => object.key)));
  return desiredWrites([...actual.objects, ...others], wanted);
}

/** Objects of machines that were another owner's until now: they are taken over. */
async function underSameKeys(
  kv: Kv,
  wanted: readonly Desired[],
  own: ReadonlySet<string>,
): Promise<KvObject<Desired>[]> {
  const unknown = wanted.filter(({ kind, key }) => kind === 'firewall-vm' && !own.has(key));
  const found = await Promise.all(unknown.map(({ key }) => kv.tryGet<Desired>(desiredBucket.name, key)));
  return found.filter((object) => object !== undefined);
}
