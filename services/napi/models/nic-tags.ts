import type { Kv, KvObject } from '../../../kvstore/types.ts';
import { nicTagsBucket } from './buckets.ts';
import { invalidField, refused } from './errors.ts';

export interface NicTagRecord {
  readonly uuid: string;
  readonly name: string;
  readonly mtu: number;
}

/** The tag that overlays ride on, and the MTU that it leaves to fabric networks. */
export const overlayTag = 'sdc_overlay';
export const overlayMtu = 1400;
export const underlayTag = 'underlay';
export const defaultMtu = 1500;

export function tryNicTag(kv: Kv, name: string): Promise<KvObject<NicTagRecord> | undefined> {
  return kv.tryGet<NicTagRecord>(nicTagsBucket.name, name);
}

/** @throws InvalidParameters where there is no such NIC tag */
export async function checkNicTag(kv: Kv, name: string): Promise<NicTagRecord> {
  const tag = await tryNicTag(kv, name);
  if (tag === undefined) throw refused(invalidField('nic_tag', 'nic tag does not exist'));
  return tag.value;
}

/** @throws InvalidParameters where the NIC tag carries smaller packets than the network's */
export async function checkMtu(kv: Kv, nicTag: string, mtu: number): Promise<void> {
  const tag = await checkNicTag(kv, nicTag);
  if (tag.mtu < mtu) throw refused(invalidField('mtu', 'network mtu must be under nic_tag mtu'));
}

/** @throws InvalidParameters naming those of a NIC's tags that there are not */
export async function checkNicTags(kv: Kv, field: string, names: readonly string[]): Promise<void> {
  const found = await Promise.all(names.map((name) => tryNicTag(kv, name)));
  const missing = names.filter((_, i) => found[i] === undefined);
  if (missing.length === 0) return;
  const message = missing.length === 1 ? 'nic tag does not exist' : 'nic tags do not exist';
  throw refused(invalidField(field, message, missing));
}
