import type { BatchOp, Kv, KvObject } from '../../../kvstore/types.ts';
import { isCongerError } from '../../../runtime/errors.ts';
import { uuid } from '../../common/fields.ts';
import { retryOnConflict, staleIfGone } from '../../common/retry.ts';
import { broadcastOf, contains, isPrivate, overlaps, parseSubnet } from './address.ts';
import { ipsBucket, networksBucket, nicsBucket } from './buckets.ts';
import { duplicateField, inUse, notFound, refused, refusedAs, usedField } from './errors.ts';
import type { IpRecord } from './ip.ts';
import { formatMac } from './mac.ts';
import { adminOwner, isOwner, type NetworkRecord, uniqueName } from './network.ts';
import { networksTurn, readTurn } from './turns.ts';

/** The user of what is an owner's own and nobody's in particular, as in Triton. */
const nobody = '00000000-0000-0000-0000-000000000000';

/** Reads a network by uuid; `admin` is the network of that name. @throws ResourceNotFound */
export async function readNetwork(kv: Kv, name: string): Promise<KvObject<NetworkRecord>> {
  const network = await tryNetwork(kv, name);
  if (network === undefined) throw notFound('network not found');
  return network;
}

export async function tryNetwork(kv: Kv, name: string): Promise<KvObject<NetworkRecord> | undefined> {
  if (name === 'admin') {
    const filter = `(name_str=${uniqueName(undefined, 'admin')})`;
    return (await kv.find<NetworkRecord>(networksBucket.name, filter, { limit: 1 })).objects[0];
  }
  return uuid.safeParse(name).success ? kv.tryGet<NetworkRecord>(networksBucket.name, name) : undefined;
}

/** A network for whom it is for; others are not told that it is there. @throws ResourceNotFound */
export async function readNetworkOf(
  kv: Kv,
  name: string,
  owner: string | undefined,
): Promise<KvObject<NetworkRecord>> {
  const network = await readNetwork(kv, name);
  if (owner !== undefined && !isOwner(network.value, owner)) throw notFound('network not found');
  return network;
}

/**
 * Writes a new network, its bucket of addresses, and the addresses that are taken from the start (gateway, resolvers,
 * broadcast). The networks of one fabric, and those on none, are made one at a time; `check` runs in this one's turn.
 * A repeat of the request that made it answers what is there.
 * @throws InvalidParameters where the name is taken or the subnet overlaps another network's
 */
export function createNetwork(
  kv: Kv,
  record: NetworkRecord,
  check: () => Promise<void> = async () => {},
): Promise<KvObject<NetworkRecord>> {
  return retryOnConflict(`networks beside ${record.uuid}`, async () => {
    const turn = await readTurn(kv, networksTurn(record.vnet_id));
    const present = await kv.tryGet<NetworkRecord>(networksBucket.name, record.uuid);
    if (present !== undefined) {
      if (present.value.request_key === record.request_key) return present;
      throw refused(duplicateField('uuid'));
    }
    await check();
    await refuseOverlap(kv, record);
    const bucket = ipsBucket(record.uuid);
    await kv.ensureBucket(bucket.name, bucket.config);
    try {
      await kv.batch([
        { operation: 'put', bucket: networksBucket.name, key: record.uuid, value: record, etag: null },
        ...reservedAddresses(record),
        turn,
      ]);
    } catch (error) {
      throw nameTaken(error);
    }
    return readNetwork(kv, record.uuid);
  });
}

/** The error of a write of a network: its name is the one field that must be its own. */
export function nameTaken(error: unknown): unknown {
  return isCongerError(error, 'UniqueAttributeError')
    ? refusedAs('name is in use by another network', duplicateField('name'))
    : error;
}

function reservedAddresses(record: NetworkRecord): BatchOp[] {
  const subnet = parseSubnet(record.subnet);
  const taken = new Map<string, { belongs_to_uuid: string; owner_uuid: string }>();
  const admin = { belongs_to_uuid: adminOwner, owner_uuid: adminOwner };
  for (const resolver of record.resolver_addrs) if (contains(subnet, resolver)) taken.set(resolver, admin);
  const broadcast = broadcastOf(subnet);
  if (broadcast !== undefined) taken.set(broadcast, admin);
  if (record.gateway_addr !== undefined) {
    const own = record.fabric && record.internet_nat === false && record.owner_uuid !== undefined;
    taken.set(
      record.gateway_addr,
      own ? { belongs_to_uuid: nobody, owner_uuid: record.owner_uuid as string } : admin,
    );
  }
  return [...taken].map(([address, user]) => {
    const value: IpRecord = { ipaddr: address, reserved: true, belongs_to_type: 'other', ...user, v: 2 };
    return { operation: 'put', bucket: ipsBucket(record.uuid).name, key: address, value };
  });
}

/** An owner's fabric networks may not overlap each other; nor may others, unless their addresses are private. */
async function refuseOverlap(kv: Kv, record: NetworkRecord): Promise<void> {
  const subnet = parseSubnet(record.subnet);
  if (!record.fabric && isPrivate(subnet)) return;
  const among = record.fabric ? `(vnet_id=${record.vnet_id})` : '(fabric=false)';
  const found = await kv.find<NetworkRecord>(networksBucket.name, `(&(uuid=*)${among})`, { noLimit: true });
  const clashes = found.objects.filter((other) => overlaps(subnet, parseSubnet(other.value.subnet)));
  if (clashes.length === 0) return;
  const errors = clashes.map(({ key }) =>
    usedField('subnet', { type: 'network', id: key }, 'subnet overlaps with another network'),
  );
  throw refused(...errors);
}

/**
 * Deletes a network that nothing is on. A NIC that came meanwhile is seen by one side at least: by this one, which puts
 * the network back, or by the one that makes the NIC, which looks for its network once more.
 * @throws InUse, EtagConflictError
 */
export async function deleteNetwork(kv: Kv, network: KvObject<NetworkRecord>): Promise<void> {
  await refuseUsed(kv, network.key);
  await kv.del(networksBucket.name, network.key, { etag: network._etag }).catch(staleIfGone);
  try {
    await refuseUsed(kv, network.key);
  } catch (error) {
    await kv.put(networksBucket.name, network.key, network.value, { etag: null });
    throw error;
  }
}

async function refuseUsed(kv: Kv, networkUuid: string): Promise<void> {
  const filter = `(network_uuid=${networkUuid})`;
  const nics = await kv.find<{ mac: number }>(nicsBucket.name, filter, { limit: 1000 });
  if (nics.count === 0) return;
  const users = nics.objects.map(({ value }) => ({ type: 'nic', id: formatMac(value.mac) }));
  throw inUse('network must have no NICs provisioned', users);
}
