import type { BatchOp, Kv, KvObject } from '../../../kvstore/types.ts';
import { mappedAddress } from '../models/address.ts';
import { ipsBucket, networksBucket, nicsBucket, underlayBucket, vnetMacIpBucket } from '../models/buckets.ts';
import { type IpRecord, released } from '../models/ip.ts';
import type { NetworkRecord } from '../models/network.ts';
import type { NicRecord } from '../models/nic.ts';
import { underlayTag } from '../models/nic-tags.ts';

/** The writes that go with a NIC's, in one batch: its address, portolan's rows, and the other primaries. */

const vxlanPort = 4789;

/**
 * Gives an address to a NIC.
 * @param reserved whether it stays the owner's when the NIC is gone; undefined: as it was
 */
export function takeIp(
  networkUuid: string,
  nic: NicRecord,
  address: string,
  present: { readonly value?: IpRecord; readonly etag: string | null },
  reserved: boolean | undefined,
): BatchOp {
  const value: IpRecord = {
    ipaddr: address,
    reserved: reserved ?? present.value?.reserved ?? false,
    belongs_to_type: nic.belongs_to_type,
    belongs_to_uuid: nic.belongs_to_uuid,
    owner_uuid: nic.owner_uuid,
    v: 2,
  };
  return {
    operation: 'put',
    bucket: ipsBucket(networkUuid).name,
    key: address,
    value,
    etag: present.etag,
  };
}

/** Frees the address of a NIC, if it is still this NIC's. */
export async function releaseIp(kv: Kv, nic: NicRecord): Promise<BatchOp[]> {
  if (nic.ipaddr === undefined || nic.network_uuid === undefined) return [];
  const bucket = ipsBucket(nic.network_uuid).name;
  const ip = await kv.tryGet<IpRecord>(bucket, nic.ipaddr);
  if (ip === undefined || ip.value.belongs_to_uuid !== nic.belongs_to_uuid) return [];
  return [{ operation: 'put', bucket, key: nic.ipaddr, value: released(ip.value), etag: ip._etag }];
}

/** Portolan's rows for a NIC that is there. */
export function putPortolan(nic: NicRecord): BatchOp[] {
  const ops: BatchOp[] = [];
  if (isOverlay(nic)) ops.push(vnetRow(nic, false));
  if (isUnderlay(nic)) {
    const value = { cn_uuid: nic.belongs_to_uuid, ip: nic.ipaddr, port: vxlanPort };
    ops.push({ operation: 'put', bucket: underlayBucket.name, key: nic.belongs_to_uuid, value });
  }
  return ops;
}

/** Portolan's rows for a NIC that goes. */
export async function deletePortolan(kv: Kv, nic: NicRecord): Promise<BatchOp[]> {
  const ops: BatchOp[] = [];
  if (isOverlay(nic)) ops.push(vnetRow(nic, true));
  if (isUnderlay(nic)) {
    const { name: bucket } = underlayBucket;
    const mapping = await kv.tryGet<{ ip: string }>(bucket, nic.belongs_to_uuid);
    if (mapping !== undefined && mapping.value.ip === nic.ipaddr)
      ops.push({ operation: 'delete', bucket, key: nic.belongs_to_uuid, etag: mapping._etag });
  }
  return ops;
}

/** Whether other machines of its fabric are to find it. */
function isOverlay(nic: NicRecord): boolean {
  return (
    nic.ipaddr !== undefined &&
    nic.vnet_id !== undefined &&
    nic.cn_uuid !== undefined &&
    nic.belongs_to_type === 'zone'
  );
}

/** Whether overlays reach its server by it. */
function isUnderlay(nic: NicRecord): boolean {
  const onUnderlay = nic.ipaddr !== undefined && nic.nic_tag === underlayTag;
  return onUnderlay && nic.underlay === true && nic.belongs_to_type === 'server';
}

function vnetRow(nic: NicRecord, deleted: boolean): BatchOp {
  const ip = mappedAddress(nic.ipaddr as string);
  const value = { mac: nic.mac, ip, cn_uuid: nic.cn_uuid, vnet_id: nic.vnet_id, version: 1, deleted };
  return { operation: 'put', bucket: vnetMacIpBucket.name, key: `${ip},${nic.vnet_id}`, value };
}

/** A fabric network says whether its gateway is there, which is a NIC with the gateway's address. */
export async function markGateway(kv: Kv, nic: NicRecord, provisioned: boolean): Promise<BatchOp[]> {
  if (nic.vnet_id === undefined || nic.network_uuid === undefined) return [];
  const network: KvObject<NetworkRecord> | undefined = await kv.tryGet(networksBucket.name, nic.network_uuid);
  if (network === undefined || network.value.gateway_addr !== nic.ipaddr) return [];
  const value: NetworkRecord = { ...network.value, gateway_provisioned: provisioned };
  return [{ operation: 'put', bucket: networksBucket.name, key: network.key, value, etag: network._etag }];
}

/** A machine has one primary NIC: a new one takes it from the others. */
export async function clearOtherPrimaries(kv: Kv, nic: NicRecord): Promise<BatchOp[]> {
  if (!nic.primary_flag) return [];
  const filter = `(&(belongs_to_uuid=${nic.belongs_to_uuid})(primary_flag=true)(!(mac=${nic.mac})))`;
  const others = await kv.find<NicRecord>(nicsBucket.name, filter, { noLimit: true });
  return others.objects.map(({ key, value, _etag }) => ({
    operation: 'put',
    bucket: nicsBucket.name,
    key,
    value: { ...value, primary_flag: false, modified_timestamp: Date.now() },
    etag: _etag,
  }));
}

/** The writes of `later`, and those of `earlier` to other objects. */
export function laterWins(earlier: readonly BatchOp[], later: readonly BatchOp[]): BatchOp[] {
  const name = ({ bucket, key }: BatchOp) => `${bucket}/${key}`;
  const written = new Set(later.map(name));
  return [...earlier.filter((op) => !written.has(name(op))), ...later];
}
