import { netmaskOf, parseSubnet } from './address.ts';
import { refused } from './errors.ts';

/** A network as NAPI keeps it; the fields that end in _addr, _addrs, _arr and _str are Triton's indexes. */
export interface NetworkRecord {
  readonly uuid: string;
  readonly name: string;
  readonly name_str: string;
  readonly description?: string;
  readonly fabric: boolean;
  readonly vnet_id?: number;
  /** A fabric's owner; what the network's changes are ordered by. */
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

/** The fields that clients may ask for by name. */
export const networkFields = [
  'description',
  'fabric',
  'internet_nat',
  'gateway',
  'mtu',
  'name',
  'nic_tag',
  'owner_uuid',
  'owner_uuids',
  'provision_end_ip',
  'provision_start_ip',
  'resolvers',
  'routes',
  'subnet',
  'uuid',
  'vlan_id',
] as const;

/** A network as clients see it. Under /fabrics, which have one owner, the owner is `owner_uuid`. */
export function presentNetwork(
  record: NetworkRecord,
  { underFabrics = false }: { readonly underFabrics?: boolean } = {},
): Record<string, unknown> {
  const netmask = netmaskOf(parseSubnet(record.subnet));
  const owners = record.owner_uuids_arr;
  return {
    family: record.subnet_type,
    mtu: record.mtu,
    nic_tag: record.nic_tag,
    name: record.name,
    provision_end_ip: record.provision_end_ip_addr,
    provision_start_ip: record.provision_start_ip_addr,
    subnet: record.subnet,
    uuid: record.uuid,
    vlan_id: record.vlan_id,
    ...(record.fabric ? ofFabric(record) : {}),
    resolvers: record.resolver_addrs,
    ...(record.gateway_addr === undefined ? {} : { gateway: record.gateway_addr }),
    ...(record.routes === undefined ? {} : { routes: record.routes }),
    ...(record.description === undefined ? {} : { description: record.description }),
    ...(owners === undefined ? {} : underFabrics ? { owner_uuid: owners[0] } : { owner_uuids: owners }),
    ...(netmask === undefined ? {} : { netmask }),
  };
}

function ofFabric({
  vnet_id,
  internet_nat = true,
  gateway_addr,
  gateway_provisioned,
}: NetworkRecord): Record<string, unknown> {
  return {
    fabric: true,
    vnet_id,
    internet_nat,
    ...(gateway_addr === undefined ? {} : { gateway_provisioned }),
  };
}

/** The unique name: a fabric network's need only be unique among its owner's. */
export function uniqueName(owner: string | undefined, name: string): string {
  return `${owner ?? 'global'}:${name}`;
}

/** Whether a network is for everyone, or `owner` one of those whom it is for; the datacenter itself may use any. */
export function isOwner({ owner_uuids_arr: owners }: NetworkRecord, owner: string): boolean {
  return owners === undefined || owners.length === 0 || owners.includes(owner) || owner === adminOwner;
}

/** @throws InvalidParameters where the network is not for `owner` */
export function checkOwner(network: NetworkRecord, owner: string): void {
  if (isOwner(network, owner)) return;
  throw refused({
    field: 'owner_uuid',
    code: 'InvalidParameter',
    message: 'network owner_uuids do not match',
  });
}

/** The owner of what belongs to the datacenter itself, as in Triton. */
export const adminOwner = '930896af-bf8c-48d4-885c-6573a94b1853';
