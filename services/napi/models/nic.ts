import { z } from 'zod';
import { netmaskOf, parseSubnet } from './address.ts';
import { address, flag, listOf, mac, vlanId } from './fields.ts';
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

/** A NIC as NAPI keeps it. Times are in milliseconds since 1970. */
export interface NicRecord extends Allowances {
  readonly mac: number;
  readonly owner_uuid: string;
  readonly belongs_to_uuid: string;
  readonly belongs_to_type: string;
  readonly primary_flag: boolean;
  readonly state: 'provisioning' | 'stopped' | 'running';
  readonly cn_uuid?: string;
  readonly ipaddr?: string;
  readonly network_uuid?: string;
  readonly nic_tag?: string;
  readonly vlan_id?: number;
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

const allowanceFields = Object.fromEntries(allowances.map((name) => [name, flag.optional()])) as Record<
  (typeof allowances)[number],
  z.ZodOptional<typeof flag>
>;

const common = {
  belongs_to_type: z.string().min(1).max(64),
  belongs_to_uuid: z.uuid(),
  owner_uuid: z.uuid(),
  cn_uuid: z.uuid().optional(),
  ip: address.optional(),
  primary: flag.optional(),
  reserved: flag.optional(),
  check_owner: flag.optional(),
  nic_tags_provided: listOf(z.string()).optional(),
  model: z.string().optional(),
  state: z.enum(['provisioning', 'stopped', 'running']).optional(),
  underlay: flag.optional(),
  ...allowanceFields,
};

/** POST /networks/:uuid/nics */
export const provisionNicSchema = z.strictObject({ ...common, mac: mac.optional() });

/** POST /nics */
export const createNicSchema = z.strictObject({
  ...common,
  mac: mac.optional(),
  network_uuid: z.union([z.uuid(), z.literal('admin')]).optional(),
  nic_tag: z.string().optional(),
  vlan_id: vlanId.optional(),
});

/** PUT /nics/:mac */
export const updateNicSchema = z
  .strictObject({
    ...common,
    network_uuid: z.uuid().optional(),
    nic_tag: z.string().optional(),
    vlan_id: vlanId.optional(),
  })
  .partial();

/** A NIC as clients see it, with what it has from its network. */
export function presentNic(nic: NicRecord, network: NetworkRecord | undefined): Record<string, unknown> {
  const allowed = Object.fromEntries(
    allowances.filter((name) => nic[name] !== undefined).map((name) => [name, nic[name]]),
  );
  return {
    mac: formatMac(nic.mac),
    primary: nic.primary_flag,
    owner_uuid: nic.owner_uuid,
    belongs_to_uuid: nic.belongs_to_uuid,
    belongs_to_type: nic.belongs_to_type,
    state: nic.state,
    ...(nic.cn_uuid === undefined ? {} : { cn_uuid: nic.cn_uuid }),
    ...(nic.model === undefined ? {} : { model: nic.model }),
    ...(nic.underlay === undefined ? {} : { underlay: nic.underlay }),
    ...(nic.nic_tags_provided_arr === undefined ? {} : { nic_tags_provided: nic.nic_tags_provided_arr }),
    ...allowed,
    ...(nic.nic_tag === undefined ? {} : { nic_tag: nic.nic_tag }),
    ...(nic.ipaddr === undefined || network === undefined ? {} : ofNetwork(nic.ipaddr, network)),
    created_timestamp: new Date(nic.created_timestamp).toISOString(),
    modified_timestamp: new Date(nic.modified_timestamp).toISOString(),
  };
}

function ofNetwork(ip: string, network: NetworkRecord): Record<string, unknown> {
  return {
    ip,
    netmask: netmaskOf(parseSubnet(network.subnet)),
    network_uuid: network.uuid,
    vlan_id: network.vlan_id,
    mtu: network.mtu,
    resolvers: network.resolver_addrs,
    ...(network.gateway_addr === undefined ? {} : { gateway: network.gateway_addr }),
    ...(network.routes === undefined ? {} : { routes: network.routes }),
    ...(network.fabric
      ? {
          fabric: true,
          vnet_id: network.vnet_id,
          internet_nat: network.internet_nat,
          gateway_provisioned: network.gateway_provisioned,
        }
      : {}),
  };
}
