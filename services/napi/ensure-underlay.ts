import type { Kv } from '../../kvstore/types.ts';
import { isCongerError } from '../../runtime/errors.ts';
import { derivedUuid } from '../common/ids.ts';
import { numberToAddress, parseSubnet } from './models/address.ts';
import { nicTagsBucket } from './models/buckets.ts';
import { type NetworkRecord, uniqueName } from './models/network.ts';
import { createNetwork } from './models/network-store.ts';
import { defaultMtu, type NicTagRecord, overlayTag, underlayTag } from './models/nic-tags.ts';

const underlayMtu = 9000;

/**
 * What nodes need to register: the NIC tags of the datacenter itself, and the network that carries the overlays. Any
 * instance makes what is missing; what is there stays as the operator has it.
 */
export async function ensureUnderlay(kv: Kv, subnet: string): Promise<void> {
  for (const [name, mtu] of [
    ['admin', defaultMtu],
    [overlayTag, defaultMtu],
    [underlayTag, underlayMtu],
  ] as const) {
    const tag: NicTagRecord = { uuid: derivedUuid('napi nic tag', name), name, mtu };
    await kv.put(nicTagsBucket.name, name, tag, { etag: null }).catch(unlessThere);
  }
  const { first, last, family } = parseSubnet(subnet);
  const record: NetworkRecord = {
    uuid: derivedUuid('napi network', 'underlay'),
    name: 'underlay',
    name_str: uniqueName(undefined, 'underlay'),
    fabric: false,
    nic_tag: underlayTag,
    vlan_id: 0,
    mtu: underlayMtu,
    subnet,
    subnet_type: family,
    provision_start_ip_addr: numberToAddress(first + 1n, family),
    provision_end_ip_addr: numberToAddress(last - 1n, family),
    resolver_addrs: [],
    request_key: 'underlay',
    v: 4,
  };
  // Somebody else's network of that name is what the operator wants.
  await createNetwork(kv, record).catch((error: unknown) => {
    if (!isCongerError(error, 'InvalidParameters')) throw error;
  });
}

function unlessThere(error: unknown): void {
  if (!isCongerError(error, 'EtagConflictError')) throw error;
}
