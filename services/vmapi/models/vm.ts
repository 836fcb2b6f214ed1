import type { BatchOp, Kv, KvObject } from '../../../kvstore/types.ts';
import { vmsBucket } from '../../common/records.ts';
import { type Metadata, searchArray, tagString } from './metadata.ts';

/** A NIC as a VM shows it. */
export interface VmNic {
  readonly interface: string;
  readonly mac: string;
  readonly vlan_id: number;
  readonly nic_tag: string;
  readonly ip: string;
  readonly ips: readonly string[];
  readonly netmask: string;
  readonly gateway?: string;
  readonly gateways?: readonly string[];
  readonly mtu: number;
  readonly network_uuid: string;
  readonly primary: boolean;
  readonly model?: string;
}

/**
 * A VM as it is kept, key = uuid. `state` is Triton's; `zone_state` is what the node last showed. Times are ISO 8601,
 * but for `create_timestamp` (milliseconds since 1970).
 */
export interface Vm {
  readonly uuid: string;
  readonly owner_uuid: string;
  readonly server_uuid: string | null;
  readonly alias: string | null;
  readonly brand: string;
  readonly state: string;
  readonly zone_state: string | null;
  readonly autoboot: boolean;
  readonly firewall_enabled: boolean;
  readonly ram: number;
  readonly max_physical_memory: number;
  readonly create_timestamp: number;
  readonly last_modified: string;
  readonly destroyed: string | null;
  readonly nics: readonly VmNic[];
  readonly resolvers: readonly string[];
  readonly customer_metadata: Metadata;
  readonly internal_metadata: Metadata;
  readonly internal_metadata_search_array: readonly string[];
  readonly tag_map: Metadata;
  readonly tags: string;
  readonly data_version: 1;
  /** When the node reached the state that it last reported. */
  readonly reported: string | null;
  readonly [field: string]: unknown;
}

/** The VM with other metadata, in all the forms in which it is kept. */
export function withMetadata(
  vm: Vm,
  given: { customer_metadata?: Metadata; internal_metadata?: Metadata; tags?: Metadata },
): Vm {
  const internal = given.internal_metadata ?? vm.internal_metadata;
  const tags = given.tags ?? vm.tag_map;
  return {
    ...vm,
    customer_metadata: given.customer_metadata ?? vm.customer_metadata,
    internal_metadata: internal,
    internal_metadata_search_array: searchArray(internal),
    tag_map: tags,
    tags: tagString(tags),
  };
}

/** Fields that an answer always has, null where the VM has none. */
const fixedFields = [
  'uuid',
  'alias',
  'autoboot',
  'brand',
  'billing_id',
  'cpu_cap',
  'cpu_shares',
  'create_timestamp',
  'customer_metadata',
  'datasets',
  'destroyed',
  'firewall_enabled',
  'internal_metadata',
  'last_modified',
  'limit_priv',
  'max_locked_memory',
  'max_lwps',
  'max_physical_memory',
  'max_swap',
  'nics',
  'owner_uuid',
  'platform_buildstamp',
  'quota',
  'ram',
  'resolvers',
  'server_uuid',
  'snapshots',
  'state',
  'tags',
  'zfs_filesystem',
  'zfs_io_priority',
  'zone_state',
  'zonepath',
  'zpool',
] as const;

/** Fields that an answer has where the VM has them. */
const optionalFields = [
  'boot_timestamp',
  'docker',
  'dns_domain',
  'delegate_dataset',
  'exit_status',
  'exit_timestamp',
  'filesystems',
  'flexible_disk_size',
  'fs_allowed',
  'hostname',
  'indestructible_delegated',
  'indestructible_zoneroot',
  'init_name',
  'kernel_version',
  'maintain_resolvers',
  'mdata_exec_timeout',
  'package_name',
  'package_version',
  'pid',
  'tmpfs',
  'zfs_data_compression',
  'zfs_snapshot_limit',
] as const;

const hardwareFields = ['vcpus', 'cpu_type', 'disks'] as const;

/** Every field that `fields=` may name. */
export const presentedFields: ReadonlySet<string> = new Set([
  ...fixedFields,
  ...optionalFields,
  ...hardwareFields,
  'image_uuid',
]);

export type VmObject = Readonly<Record<string, unknown>>;

export function isHardware(brand: string): boolean {
  return brand === 'kvm' || brand === 'bhyve';
}

/** A VM as GetVm and ListVms answer it. */
export function presentVm(vm: Vm): VmObject {
  const answer: Record<string, unknown> = Object.fromEntries(
    fixedFields.map((field) => [field, vm[field] ?? null]),
  );
  answer.create_timestamp = new Date(vm.create_timestamp).toISOString();
  answer.tags = vm.tag_map;
  answer.datasets = vm.datasets ?? [];
  answer.snapshots = vm.snapshots ?? [];
  for (const field of optionalFields) {
    const value = vm[field];
    if (value !== undefined && value !== null && value !== '') answer[field] = value;
  }
  if (isHardware(vm.brand)) {
    for (const field of hardwareFields) if (vm[field] !== undefined) answer[field] = vm[field];
  } else {
    answer.image_uuid = vm.image_uuid ?? null;
  }
  return answer;
}

/** The fields of a presented VM that `fields=` asks for. */
export function pickFields(vm: VmObject, fields: readonly string[] | undefined): VmObject {
  if (fields === undefined || fields.includes('*')) return vm;
  return Object.fromEntries(fields.filter((field) => field in vm).map((field) => [field, vm[field]]));
}

export function readVm(kv: Kv, uuid: string): Promise<KvObject<Vm> | undefined> {
  return kv.tryGet<Vm>(vmsBucket.name, uuid);
}

/** Writes `next`, if the VM is still as it was read. */
export function putVmOp(read: Pick<KvObject<Vm>, '_etag'> | undefined, next: Vm): BatchOp {
  return { operation: 'put', bucket: vmsBucket.name, key: next.uuid, value: next, etag: read?._etag ?? null };
}
