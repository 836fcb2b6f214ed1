import { desiredBucket } from '../../../agents/contract/desired.ts';
import type { Kv, KvObject } from '../../../kvstore/types.ts';
import { CongerError } from '../../../runtime/errors.ts';
import type { JobRecord } from '../../common/jobs/record.ts';
import { vmsBucket } from '../../common/records.ts';
import type { RestClient } from '../../common/rest-client.ts';
import { type DesiredVm, readDesired } from '../models/desired.ts';
import { readVm, type Vm } from '../models/vm.ts';

/** What the steps of VMAPI's jobs work with. */
export interface VmJobParts {
  readonly kv: Kv;
  readonly napi: Pick<RestClient, 'get' | 'post' | 'put' | 'delete'>;
  readonly cnapi: Pick<RestClient, 'post'>;
  /** How long a node may take to do what is asked of it, in milliseconds. */
  readonly nodeTimeoutMs: () => number;
}

export const vmBuckets = { vms: vmsBucket.name, desired: desiredBucket.name } as const;

export function vmUuidOf(job: JobRecord): string {
  return String(job.vm_uuid);
}

/** @throws CongerError ResourceNotFound */
export async function needVm(kv: Kv, uuid: string): Promise<KvObject<Vm>> {
  const vm = await readVm(kv, uuid);
  if (vm === undefined) throw new CongerError('ResourceNotFound', `VM ${uuid} not found`);
  return vm;
}

/** @throws CongerError Conflict where the VM is on no node, or is not to stay there */
export async function needDesired(kv: Kv, uuid: string): Promise<KvObject<DesiredVm>> {
  const desired = await readDesired(kv, uuid);
  if (desired === undefined || desired.value.body.state === 'destroyed') {
    throw new CongerError('Conflict', `VM ${uuid} is not on a node`);
  }
  return desired;
}

/** The VM after a change of VMAPI's own. */
export function modified(vm: Vm, change: Partial<Vm>): Vm {
  return { ...vm, ...change, last_modified: new Date().toISOString() };
}
