import type { Kv } from '../../kvstore/types.ts';
import { isCongerError } from '../../runtime/errors.ts';
import { derivedUuid } from '../common/ids.ts';
import { numberToAddress, parseSubnet } from './models/address.ts';
import { nicTagsBucket } from './models/buckets.ts';
import type { NetworkRecord } from './models/network.ts';
import { createNetwork } from './models/network-store.ts';
import type { NicTagRecord } from './routes/nic-tags.ts';

const underlayMtu = 9000;

/**
 * What nodes need to register: the NIC tags `admin` and `underlay`, and the network that carries the overlays. Any
 * instance makes what is missing; what is there stays as the operator has it.
 */
export async function ensureUnderlay(kv: Kv, subnet: string): Promise<void> {
  for (const [name, mtu] of [
    ['admin', 1500],
    ['underlay', underlayMtu],
  ] as const) {
    const tag: NicTagRecord = { uuid: derivedUuid('napi nic tag', name), name, mtu };
    await kv.put(nicTagsBucket.name, name, tag, { etag: null }).catch(unlessThere);
  }
  const { first, last, family } = parseSubnet(subnet);
  const record: NetworkRecord = {
    uuid: derivedUuid('napi network', 'underlay'),
    name: 'underlay',
    name_str: 'underlay',
    fabric: false,
    nic_tag: 'underlay',
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
  await createNetwork(kv, record, []).catch(unlessThere);
}

function unlessThere(error: unknown): void {
  if (!isCongerError(error, 'EtagConflictError')) throw error;
}
