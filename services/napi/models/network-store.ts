import type { BatchOp, Kv, KvObject } from '../../../kvstore/types.ts';
import { isCongerError } from '../../../runtime/errors.ts';
import { overlaps, parseSubnet } from './address.ts';
import { ipsBucket, networksBucket, nicsBucket } from './buckets.ts';
import { duplicate, inUse, invalidAll, notFound } from './errors.ts';
import type { IpRecord } from './ip.ts';
import { adminOwner, type NetworkRecord } from './network.ts';

/** Reads a network by uuid; `admin` is the network of that name. @throws ResourceNotFound */
export async function readNetwork(kv: Kv, uuid: string): Promise<KvObject<NetworkRecord>> {
  if (uuid === 'admin') {
    const found = await kv.find<NetworkRecord>(networksBucket.name, '(name_str=admin)', { limit: 1 });
    if (found.objects[0] !== undefined) return found.objects[0];
  }
  const network = await kv.tryGet<NetworkRecord>(networksBucket.name, uuid);
  if (network === undefined) throw notFound(`network ${uuid}`);
  return network;
}

/**
 * Writes a new network, its bucket of addresses, and the addresses that are taken from the start (gateway, resolvers),
 * with `guards` in the same batch. A repeat of the request that made it answers what is there.
 * @throws InvalidParameters where the name is taken or the subnet overlaps another network's
 */
export async function createNetwork(
  kv: Kv,
  record: NetworkRecord,
  guards: readonly BatchOp[],
): Promise<KvObject<NetworkRecord>> {
  const present = await kv.tryGet<NetworkRecord>(networksBucket.name, record.uuid);
  if (present !== undefined) {
    if (present.value.request_key === record.request_key) return present;
    throw duplicate('uuid');
  }
  await refuseOverlap(kv, record);
  const bucket = ipsBucket(record.uuid);
  await kv.ensureBucket(bucket.name, bucket.config);
  try {
    await kv.batch([
      { operation: 'put', bucket: networksBucket.name, key: record.uuid, value: record, etag: null },
      ...reservedAddresses(record),
      ...guards,
    ]);
  } catch (error) {
    if (isCongerError(error, 'UniqueAttributeError')) throw duplicate('name');
    throw error;
  }
  return readNetwork(kv, record.uuid);
}

function reservedAddresses(record: NetworkRecord): BatchOp[] {
  const subnet = parseSubnet(record.subnet);
  const inside = [record.gateway_addr, ...record.resolver_addrs].filter((address) => {
    return (
      address !== undefined &&
      overlaps(subnet, parseSubnet(`${address}/${subnet.family === 'ipv4' ? 32 : 128}`))
    );
  }) as string[];
  return [...new Set(inside)].map((address) => {
    const value: IpRecord = {
      ipaddr: address,
      reserved: true,
      belongs_to_type: 'other',
      belongs_to_uuid: adminOwner,
      owner_uuid: adminOwner,
      v: 2,
    };
    return { operation: 'put', bucket: ipsBucket(record.uuid).name, key: address, value };
  });
}

/** An owner's fabric networks may not overlap each other, nor may those that are on no fabric. */
async function refuseOverlap(kv: Kv, record: NetworkRecord): Promise<void> {
  const among = record.fabric ? `(vnet_id=${record.vnet_id})` : '(fabric=false)';
  const found = await kv.find<NetworkRecord>(networksBucket.name, `(&(uuid=*)${among})`, { noLimit: true });
  const subnet = parseSubnet(record.subnet);
  const clashes = found.objects.filter((other) => overlaps(subnet, parseSubnet(other.value.subnet)));
  if (clashes.length === 0) return;
  throw invalidAll(
    clashes.map((other) => ({
      field: 'subnet',
      code: 'UsedBy',
      message: 'subnet overlaps with another network',
      type: 'network',
      id: other.key,
    })),
  );
}

/** Deletes a network that nothing is on. @throws InUse */
export async function deleteNetwork(kv: Kv, network: KvObject<NetworkRecord>): Promise<void> {
  const nics = await kv.find(nicsBucket.name, `(network_uuid=${network.key})`, { limit: 100 });
  if (nics.count > 0)
    throw inUse(
      'Network',
      nics.objects.map((nic) => ({ type: 'nic', id: nic.key })),
    );
  await kv.del(networksBucket.name, network.key, { etag: network._etag });
}
