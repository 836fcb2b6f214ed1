import { z } from 'zod';
import type { BucketConfig } from '../../kvstore/types.ts';

/**
 * The records that one service writes and others read, straight from the KV tier or as changes: the fields that others
 * rely on, with Triton's names, buckets and indexes. A service's own records stay inside the service. Fields that are
 * not named here pass through untouched.
 */

export interface BucketDefinition {
  readonly name: string;
  readonly config: BucketConfig;
}

/** VMAPI writes it; key = uuid. Ordered by owner. */
export const vmsBucket: BucketDefinition = {
  name: 'vmapi_vms',
  config: {
    index: {
      uuid: { type: 'string', unique: true },
      owner_uuid: { type: 'string' },
      image_uuid: { type: 'string' },
      billing_id: { type: 'string' },
      server_uuid: { type: 'string' },
      package_name: { type: 'string' },
      package_version: { type: 'string' },
      tags: { type: 'string' },
      brand: { type: 'string' },
      state: { type: 'string' },
      alias: { type: 'string' },
      max_physical_memory: { type: 'number' },
      create_timestamp: { type: 'number' },
      docker: { type: 'boolean' },
      internal_metadata_search_array: { type: '[string]' },
      data_version: { type: 'number' },
    },
    options: { version: 2, partition: 'owner_uuid' },
  },
};

export const vmNicSchema = z.looseObject({
  mac: z.string(),
  ip: z.string().optional(),
  ips: z.array(z.string()).optional(),
  network_uuid: z.string().optional(),
  primary: z.boolean().optional(),
});

/** Tags are kept as an object in `tag_map`; `tags` is Triton's searchable string made from them. */
export const vmRecordSchema = z.looseObject({
  uuid: z.string(),
  owner_uuid: z.string(),
  server_uuid: z.string().nullable(),
  state: z.string(),
  alias: z.string().nullable().optional(),
  firewall_enabled: z.boolean().optional(),
  tag_map: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
  nics: z.array(vmNicSchema),
});
export type VmRecord = z.infer<typeof vmRecordSchema>;

/** NAPI writes it; key = the MAC as a decimal number. Ordered by owner. */
export const nicsBucket: BucketDefinition = {
  name: 'napi_nics',
  config: {
    index: {
      admin: { type: 'boolean' },
      allow_dhcp_spoofing: { type: 'boolean' },
      allow_ip_spoofing: { type: 'boolean' },
      allow_mac_spoofing: { type: 'boolean' },
      allow_restricted_traffic: { type: 'boolean' },
      allow_unfiltered_promisc: { type: 'boolean' },
      belongs_to_type: { type: 'string' },
      belongs_to_uuid: { type: 'string' },
      cn_uuid: { type: 'string' },
      created_timestamp: { type: 'number' },
      ipaddr: { type: 'ip' },
      mac: { type: 'number', unique: true },
      modified_timestamp: { type: 'number' },
      network_uuid: { type: 'string' },
      nic_tag: { type: 'string' },
      nic_tags_provided_arr: { type: '[string]' },
      owner_uuid: { type: 'string' },
      primary_flag: { type: 'boolean' },
      state: { type: 'string' },
      underlay: { type: 'boolean' },
      v: { type: 'number' },
    },
    options: { version: 3, partition: 'owner_uuid' },
  },
};

/** NAPI writes it from underlay NICs, as in Triton; key = server uuid. */
export const underlayBucket: BucketDefinition = {
  name: 'portolan_underlay_mappings',
  config: {
    index: { cn_uuid: { type: 'string', unique: true }, ip: { type: 'ip' }, port: { type: 'number' } },
    options: { version: 1, partition: 'cn_uuid' },
  },
};
export const underlayRecordSchema = z.looseObject({
  cn_uuid: z.string(),
  ip: z.string(),
  port: z.number().int(),
});
export type UnderlayRecord = z.infer<typeof underlayRecordSchema>;

/** CNAPI writes it; key = uuid. Ordered by server. */
export const serversBucket: BucketDefinition = {
  name: 'cnapi_servers',
  config: {
    index: {
      datacenter: { type: 'string' },
      headnode: { type: 'boolean' },
      hostname: { type: 'string' },
      overprovision_ratios: { type: 'string' },
      reserved: { type: 'boolean' },
      reservoir: { type: 'boolean' },
      setup: { type: 'boolean' },
      uuid: { type: 'string', unique: true },
    },
    options: { version: 2, partition: 'uuid' },
  },
};
