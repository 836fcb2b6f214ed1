import { type DesiredOf, desiredBucket, type VmBody } from '../../../agents/contract/desired.ts';
import type { BatchOp, Kv, KvObject } from '../../../kvstore/types.ts';
import type { Vm } from './vm.ts';

export type DesiredVm = DesiredOf<'vm'>;

export function desiredKey(vmUuid: string): string {
  return `vm/${vmUuid}`;
}

export function readDesired(kv: Kv, vmUuid: string): Promise<KvObject<DesiredVm> | undefined> {
  return kv.tryGet<DesiredVm>(desiredBucket.name, desiredKey(vmUuid));
}

/** The VM as its node is to have it. */
export function newDesired(vm: Vm, serverUuid: string, body: Pick<VmBody, 'state' | 'nics'>): DesiredVm {
  return {
    v: 1,
    kind: 'vm',
    key: desiredKey(vm.uuid),
    owner_uuid: vm.owner_uuid,
    span: [serverUuid],
    body: { uuid: vm.uuid, brand: vm.brand, reboots: 0, ...shownFields(vm), ...body },
  };
}

/** What of a VM its node shows, and so changes with it. */
export function shownFields(vm: Vm): Pick<VmBody, 'alias' | 'ram' | 'firewall_enabled'> {
  return { alias: vm.alias, ram: vm.ram, firewall_enabled: vm.firewall_enabled };
}

/** Writes what is desired, if it is still as it was read. */
export function putDesiredOp(read: Pick<KvObject<DesiredVm>, '_etag'> | undefined, next: DesiredVm): BatchOp {
  return {
    operation: 'put',
    bucket: desiredBucket.name,
    key: next.key,
    value: next,
    etag: read?._etag ?? null,
  };
}

export function changeDesiredOp(read: KvObject<DesiredVm>, body: Partial<VmBody>): BatchOp {
  return putDesiredOp(read, { ...read.value, body: { ...read.value.body, ...body } });
}

export function deleteDesiredOp(read: KvObject<DesiredVm>): BatchOp {
  return { operation: 'delete', bucket: desiredBucket.name, key: read.key, etag: read._etag };
}
