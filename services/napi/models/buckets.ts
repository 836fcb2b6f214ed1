import { nudgesBucketOf } from '../../common/nudges.ts';
import type { BucketDefinition } from '../../common/records.ts';

export { nicsBucket, underlayBucket } from '../../common/records.ts';

/** Key = uuid. A fabric network's changes are ordered by its owner. */
export const networksBucket: BucketDefinition = {
  name: 'napi_networks',
  config: {
    index: {
      fabric: { type: 'boolean' },
      gateway_addr: { type: 'ip' },
      mtu: { type: 'number' },
      name_str: { type: 'string', unique: true },
      nic_tag: { type: 'string' },
      owner_uuids_arr: { type: '[string]' },
      provision_end_ip_addr: { type: 'ip' },
      provision_start_ip_addr: { type: 'ip' },
      resolver_addrs: { type: '[ip]' },
      subnet: { type: 'subnet' },
      subnet_type: { type: 'string' },
      uuid: { type: 'string', unique: true },
      v: { type: 'number' },
      vlan_id: { type: 'number' },
      vnet_id: { type: 'number' },
      owner_uuid: { type: 'string' },
    },
    options: { version: 4, partition: 'owner_uuid' },
  },
};

/** Key = name. */
export const nicTagsBucket: BucketDefinition = {
  name: 'napi_nic_tags',
  config: {
    index: { name: { type: 'string', unique: true }, mtu: { type: 'number' } },
    options: { version: 1 },
  },
};

/** The VXLAN network id of each owner; key = owner uuid. */
export const fabricsBucket: BucketDefinition = {
  name: 'napi_fabrics',
  config: {
    index: { vnet_id: { type: 'number', unique: true } },
    options: { version: 1, partition: 'owner_uuid' },
  },
};

/** Key = `<owner uuid>:<vlan id>`. */
export const vlansBucket: BucketDefinition = {
  name: 'napi_fabric_vlans',
  config: {
    index: {
      owner_uuid: { type: 'string' },
      uuid: { type: 'string', unique: true },
      vlan_id: { type: 'number' },
      v: { type: 'number' },
    },
    options: { version: 1, partition: 'owner_uuid' },
  },
};

/** Triton's table for portolan; key = `<address as IPv6>,<vnet id>`. Nobody follows its changes here: NICs' are enough. */
export const vnetMacIpBucket: BucketDefinition = {
  name: 'portolan_vnet_mac_ip',
  config: {
    index: {
      mac: { type: 'number' },
      ip: { type: 'ip' },
      cn_uuid: { type: 'string' },
      vnet_id: { type: 'number' },
      version: { type: 'number' },
      deleted: { type: 'boolean' },
    },
    options: { version: 1, feed: false },
  },
};

/** The addresses of a network that were ever used; key = address. Records are never deleted. Nobody follows them. */
export function ipsBucket(networkUuid: string): BucketDefinition {
  return {
    name: `napi_ips_${networkUuid.replaceAll('-', '_')}`,
    config: {
      index: {
        belongs_to_type: { type: 'string' },
        belongs_to_uuid: { type: 'string' },
        owner_uuid: { type: 'string' },
        ipaddr: { type: 'ip', unique: true },
        reserved: { type: 'boolean' },
        v: { type: 'number' },
      },
      options: { version: 2, feed: false },
    },
  };
}

/** Whose turn it is (see turns.ts). */
export const turnsBucket: BucketDefinition = {
  name: 'napi_turns',
  config: { index: {}, options: { version: 1, feed: false } },
};

/** Nudges to look at an owner's overlays again. */
export const nudgesBucket = nudgesBucketOf('napi');
