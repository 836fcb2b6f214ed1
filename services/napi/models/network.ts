import { z } from 'zod';
import { CongerError, type FieldError } from '../../../runtime/errors.ts';
import {
  addressToNumber,
  contains,
  netmaskOf,
  numberToAddress,
  parseSubnet,
  type Subnet,
} from './address.ts';
import { invalidAll } from './errors.ts';
import { address, flag, listOf, subnet, vlanId } from './fields.ts';

/** A network as NAPI keeps it; the fields that end in _addr, _addrs, _arr and _str are Triton's indexes. */
export interface NetworkRecord {
  readonly uuid: string;
  readonly name: string;
  readonly name_str: string;
  readonly description?: string;
  readonly fabric: boolean;
  readonly vnet_id?: number;
  readonly owner_uuid?: string;
  readonly owner_uuids_arr?: readonly string[];
  readonly nic_tag: string;
  readonly vlan_id: number;
  readonly mtu: number;
  readonly subnet: string;
  readonly subnet_type: 'ipv4' | 'ipv6';
  readonly provision_start_ip_addr: string;
  readonly provision_end_ip_addr: string;
  readonly gateway_addr?: string;
  readonly resolver_addrs: readonly string[];
  readonly routes?: Readonly<Record<string, string>>;
  readonly internet_nat?: boolean;
  readonly gateway_provisioned?: boolean;
  readonly request_key?: string;
  readonly v: 4;
}

const common = {
  name: z.string().min(1).max(64),
  description: z.string().max(64).optional(),
  subnet,
  provision_start_ip: address,
  provision_end_ip: address,
  gateway: address.optional(),
  resolvers: listOf(address).optional(),
  routes: z.record(z.union([address, subnet]), address).optional(),
  mtu: z.coerce.number().int().min(576).max(9000).optional(),
  uuid: z.uuid().optional(),
};

export const createNetworkSchema = z.strictObject({
  ...common,
  nic_tag: z.string().min(1).max(31),
  vlan_id: vlanId,
  owner_uuids: listOf(z.uuid()).optional(),
});

export const createFabricNetworkSchema = z.strictObject({
  ...common,
  internet_nat: flag.default(true),
  owner_uuid: z.uuid().optional(),
  vlan_id: vlanId.optional(),
  fields: listOf(z.string()).optional(),
});

export const updateNetworkSchema = z.strictObject({
  name: common.name.optional(),
  description: common.description,
  gateway: common.gateway,
  resolvers: common.resolvers,
  routes: common.routes,
  mtu: common.mtu,
  provision_start_ip: address.optional(),
  provision_end_ip: address.optional(),
  owner_uuids: listOf(z.uuid()).optional(),
  owner_uuid: z.uuid().optional(),
  internet_nat: flag.optional(),
  fields: listOf(z.string()).optional(),
});

/** The subnet of a network's parameters, with the addresses in it checked. @throws InvalidParameters */
export function checkAddresses(given: {
  readonly subnet: string;
  readonly provision_start_ip: string;
  readonly provision_end_ip: string;
  readonly gateway?: string | undefined;
}): Subnet {
  let parsed: Subnet;
  try {
    parsed = parseSubnet(given.subnet);
  } catch (error) {
    throw invalidAll([
      { field: 'subnet', code: 'InvalidParameter', message: `Subnet ${(error as Error).message}` },
    ]);
  }
  const errors: FieldError[] = [];
  const refuse = (field: string, message: string) =>
    errors.push({ field, code: 'InvalidParameter', message });
  const [first, last] =
    parsed.family === 'ipv4' ? [parsed.first + 1n, parsed.last - 1n] : [parsed.first + 1n, parsed.last];
  const range = `${numberToAddress(first, parsed.family)} - ${numberToAddress(last, parsed.family)}`;
  for (const field of ['provision_start_ip', 'provision_end_ip'] as const) {
    const number = addressToNumber(given[field]);
    if (!contains(parsed, given[field]) || number < first || number > last)
      refuse(field, `must be in ${range}`);
  }
  if (addressToNumber(given.provision_start_ip) > addressToNumber(given.provision_end_ip)) {
    refuse('provision_start_ip', 'must be before provision_end_ip');
  }
  if (given.gateway !== undefined && !contains(parsed, given.gateway))
    refuse('gateway', 'must be inside the subnet');
  if (errors.length > 0) throw invalidAll(errors);
  return parsed;
}

/** A network as clients see it. */
export function presentNetwork(record: NetworkRecord): Record<string, unknown> {
  const parsed = parseSubnet(record.subnet);
  return {
    uuid: record.uuid,
    name: record.name,
    family: record.subnet_type,
    mtu: record.mtu,
    nic_tag: record.nic_tag,
    vlan_id: record.vlan_id,
    subnet: record.subnet,
    netmask: netmaskOf(parsed),
    provision_start_ip: record.provision_start_ip_addr,
    provision_end_ip: record.provision_end_ip_addr,
    resolvers: record.resolver_addrs,
    ...(record.gateway_addr === undefined ? {} : { gateway: record.gateway_addr }),
    ...(record.routes === undefined ? {} : { routes: record.routes }),
    ...(record.description === undefined ? {} : { description: record.description }),
    ...(record.fabric
      ? {
          fabric: true,
          vnet_id: record.vnet_id,
          owner_uuid: record.owner_uuid,
          internet_nat: record.internet_nat,
          gateway_provisioned: record.gateway_provisioned,
          owner_uuids: [record.owner_uuid],
        }
      : {}),
    ...(!record.fabric && record.owner_uuids_arr !== undefined
      ? { owner_uuids: record.owner_uuids_arr }
      : {}),
  };
}

/** Only the owners of a network, and the datacenter's own, may use it. @throws InvalidParameters */
export function checkOwner(network: NetworkRecord, owner: string): void {
  const owners = network.owner_uuids_arr;
  if (owners === undefined || owners.length === 0 || owners.includes(owner) || owner === adminOwner) return;
  throw new CongerError('InvalidParameters', 'Invalid parameters', {
    errors: [{ field: 'owner_uuid', code: 'InvalidParameter', message: 'owner cannot provision on network' }],
  });
}

/** The owner of what belongs to the datacenter itself, as in Triton. */
export const adminOwner = '930896af-bf8c-48d4-885c-6573a94b1853';
