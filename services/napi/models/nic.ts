import { netmaskOf, parseSubnet } from './address.ts';
import { formatMac } from './mac.ts';
import type { NetworkRecord } from './network.ts';

export const allowances = [
  'allow_dhcp_spoofing',
  'allow_ip_spoofing',
  'allow_mac_spoofing',
  'allow_restricted_traffic',
  'allow_unfiltered_promisc',
] as const;
type Allowances = { readonly [A in (typeof allowances)[number]]?: boolean };

export const belongsToTypes = ['other', 'server', 'zone'] as const;
export const nicStates = ['provisioning', 'stopped', 'running'] as const;

/** A NIC as NAPI keeps it. Times are in milliseconds since 1970. */
export interface NicRecord extends Allowances {
  readonly mac: number;
  readonly owner_uuid: string;
  readonly belongs_to_uuid: string;
  readonly belongs_to_type: (typeof belongsToTypes)[number];
  readonly primary_flag: boolean;
  readonly state: (typeof nicStates)[number];
  readonly cn_uuid?: string;
  readonly ipaddr?: string;
  readonly network_uuid?: string;
  readonly nic_tag?: string;
  readonly vlan_id?: number;
  /** The fabric's, where it is on one. */
  readonly vnet_id?: number;
  readonly model?: string;
  readonly underlay?: boolean;
  readonly nic_tags_provided_arr?: readonly string[];
  readonly created_timestamp: number;
  readonly modified_timestamp: number;
  /** The request that made it, see requestKey. */
  readonly request_key?: string;
  readonly v: 3;
}

/** A NIC as clients see it, with what it has from its network. */
export function presentNic(nic: NicRecord, network: NetworkRecord | undefined): Record<string, unknown> {
  const optional = (name: 'cn_uuid' | 'model') => (nic[name] === undefined ? {} : { [name]: nic[name] });
  const provided = nic.nic_tags_provided_arr ?? [];
  return {
    belongs_to_type: nic.belongs_to_type,
    belongs_to_uuid: nic.belongs_to_uuid,
    mac: formatMac(nic.mac),
    owner_uuid: nic.owner_uuid,
    primary: nic.primary_flag,
    state: nic.state,
    created_timestamp: new Date(nic.created_timestamp).toISOString(),
    modified_timestamp: new Date(nic.modified_timestamp).toISOString(),
    ...(nic.ipaddr === undefined ? {} : { ip: nic.ipaddr, network_uuid: nic.network_uuid }),
    ...(nic.ipaddr === undefined || network === undefined ? {} : ofNetwork(network)),
    ...optional('cn_uuid'),
    ...optional('model'),
    ...(nic.nic_tag === undefined ? {} : { nic_tag: presentTag(nic.nic_tag, nic.vnet_id) }),
    ...(provided.length === 0 ? {} : { nic_tags_provided: provided }),
    ...Object.fromEntries([...allowances, 'underlay' as const].filter((n) => nic[n]).map((n) => [n, true])),
  };
}

/** On a fabric, a NIC's tag names its vnet too. */
function presentTag(tag: string, vnetId: number | undefined): string {
  return vnetId === undefined ? tag : `${tag}/${vnetId}`;
}

function ofNetwork(network: NetworkRecord): Record<string, unknown> {
  const netmask = netmaskOf(parseSubnet(network.subnet));
  const { gateway_addr: gateway, gateway_provisioned, internet_nat = true } = network;
  const fabric = {
    fabric: true,
    internet_nat,
    ...(gateway === undefined ? {} : { gateway_provisioned }),
  };
  return {
    ...(network.fabric ? fabric : {}),
    ...(gateway === undefined ? {} : { gateway }),
    mtu: network.mtu,
    ...(netmask === undefined ? {} : { netmask }),
    resolvers: network.resolver_addrs,
    vlan_id: network.vlan_id,
    ...(network.routes === undefined ? {} : { routes: network.routes }),
  };
}
