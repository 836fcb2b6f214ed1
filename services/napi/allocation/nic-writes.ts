import type { BatchOp, Kv } from '../../../kvstore/types.ts';
import { mappedAddress } from '../models/address.ts';
import { ipsBucket, nicsBucket, underlayBucket, vnetMacIpBucket } from '../models/buckets.ts';
import { type IpRecord, released } from '../models/ip.ts';
import type { NicRecord } from '../models/nic.ts';

/** The writes that go with a NIC's, in one batch: its address, portolan's rows, and the other primaries. */

const vxlanPort = 4789;

export function putIp(networkUuid: string, nic: NicRecord, reserved: boolean, etag: string | null): BatchOp {
  const value: IpRecord = {
    ipaddr: nic.ipaddr!,
    reserved,
    belongs_to_type: nic.belongs_to_type,
    belongs_to_uuid: nic.belongs_to_uuid,
    owner_uuid: nic.owner_uuid,
    v: 2,
  };
  return { operation: 'put', bucket: ipsBucket(networkUuid).name, key: nic.ipaddr!, value, etag };
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
  if (nic.ipaddr === undefined) return ops;
  if (nic.vnet_id !== undefined) ops.push(vnetRow(nic, false));
  if (nic.underlay === true && nic.cn_uuid !== undefined) {
    const value = { cn_uuid: nic.cn_uuid, ip: nic.ipaddr, port: vxlanPort };
    ops.push({ operation: 'put', bucket: underlayBucket.name, key: nic.cn_uuid, value });
  }
  return ops;
}

/** Portolan's rows for a NIC that goes. */
export async function deletePortolan(kv: Kv, nic: NicRecord): Promise<BatchOp[]> {
  const ops: BatchOp[] = [];
  if (nic.ipaddr === undefined) return ops;
  if (nic.vnet_id !== undefined) ops.push(vnetRow(nic, true));
  if (nic.underlay === true && nic.cn_uuid !== undefined) {
    const mapping = await kv.tryGet<{ ip: string }>(underlayBucket.name, nic.cn_uuid);
    if (mapping?.value.ip === nic.ipaddr) {
      ops.push({ operation: 'delete', bucket: underlayBucket.name, key: nic.cn_uuid, etag: mapping._etag });
    }
  }
  return ops;
}

function vnetRow(nic: NicRecord, deleted: boolean): BatchOp {
  const ip = mappedAddress(nic.ipaddr!);
  const value = { mac: nic.mac, ip, cn_uuid: nic.cn_uuid, vnet_id: nic.vnet_id, version: 1, deleted };
  return { operation: 'put', bucket: vnetMacIpBucket.name, key: `${ip},${nic.vnet_id}`, value };
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
