import { isDeepStrictEqual } from 'node:util';
import type { BatchOp, Kv, KvObject } from '../../../kvstore/types.ts';
import type { FieldError } from '../../../runtime/errors.ts';
import { parseSubnet } from './address.ts';
import { ipsBucket, networksBucket } from './buckets.ts';
import { invalidField, refused } from './errors.ts';
import type { IpRecord } from './ip.ts';
import { type NetworkRecord, uniqueName } from './network.ts';
import { checkFamilies, checkRange, type NetworkUpdate } from './network-params.ts';
import { nameTaken } from './network-store.ts';
import { checkMtu } from './nic-tags.ts';

const immutable = [
  'fabric',
  'nic_tag',
  'subnet',
  'vlan_id',
  'vnet_id',
  'internet_nat',
  'gateway_provisioned',
] as const;

/** Changes a network, and reserves a new gateway's address. @throws InvalidParameters, EtagConflictError */
export async function updateNetwork(
  kv: Kv,
  network: KvObject<NetworkRecord>,
  update: NetworkUpdate,
): Promise<{ record: NetworkRecord; etag: string }> {
  const present = network.value;
  refuseImmutable(present, update);
  checkFamilies(present.subnet_type, update);
  const next = changed(present, update);
  if (['provision_start_ip', 'provision_end_ip', 'gateway'].some((name) => name in update)) {
    checkRange(parseSubnet(present.subnet), {
      provision_start_ip: next.provision_start_ip_addr,
      provision_end_ip: next.provision_end_ip_addr,
      gateway: update.gateway,
    });
  }
  if (update.mtu !== undefined) await checkMtu(kv, present.nic_tag, update.mtu);
  const put: BatchOp = {
    operation: 'put',
    bucket: networksBucket.name,
    key: network.key,
    value: next,
    etag: network._etag,
  };
  try {
    const { etags } = await kv.batch([put, ...(await reserveGateway(kv, network.key, update.gateway))]);
    return { record: next, etag: etags[0] as string };
  } catch (error) {
    throw nameTaken(error);
  }
}

function refuseImmutable(present: NetworkRecord, update: NetworkUpdate): void {
  const errors: FieldError[] = immutable
    .filter((field) => update[field] !== undefined && !isDeepStrictEqual(update[field], present[field]))
    .map((field) => invalidField(field, 'Network updates for this field are not supported'));
  if (update.family !== undefined && update.family !== present.subnet_type)
    errors.push(invalidField('family', 'Network updates for this field are not supported'));
  if (present.fabric) {
    for (const field of ['gateway', 'owner_uuids'] as const)
      if (update[field] !== undefined)
        errors.push(invalidField(field, 'Network updates for this field are not supported on fabrics'));
  }
  if (errors.length > 0) throw refused(...errors);
}

function changed({ owner_uuids_arr, ...present }: NetworkRecord, update: NetworkUpdate): NetworkRecord {
  const owners = update.owner_uuids ?? owner_uuids_arr ?? [];
  return {
    ...present,
    ...(owners.length === 0 ? {} : { owner_uuids_arr: owners }),
    ...(update.name === undefined
      ? {}
      : { name: update.name, name_str: uniqueName(present.owner_uuid, update.name) }),
    ...(update.description === undefined ? {} : { description: update.description }),
    ...(update.gateway === undefined ? {} : { gateway_addr: update.gateway }),
    ...(update.resolvers === undefined ? {} : { resolver_addrs: update.resolvers }),
    ...(update.routes === undefined ? {} : { routes: update.routes }),
    ...(update.mtu === undefined ? {} : { mtu: update.mtu }),
    ...(update.provision_start_ip === undefined
      ? {}
      : { provision_start_ip_addr: update.provision_start_ip }),
    ...(update.provision_end_ip === undefined ? {} : { provision_end_ip_addr: update.provision_end_ip }),
  };
}

async function reserveGateway(kv: Kv, networkUuid: string, gateway: string | undefined): Promise<BatchOp[]> {
  if (gateway === undefined) return [];
  const bucket = ipsBucket(networkUuid).name;
  const ip = await kv.tryGet<IpRecord>(bucket, gateway);
  const value: IpRecord = { ...(ip?.value ?? { ipaddr: gateway, v: 2 }), reserved: true };
  return [{ operation: 'put', bucket, key: gateway, value, etag: ip?._etag ?? null }];
}
