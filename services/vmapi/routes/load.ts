import { z } from 'zod';
import type { Kv, KvObject } from '../../../kvstore/types.ts';
import { CongerError } from '../../../runtime/errors.ts';
import { uuid } from '../models/params.ts';
import { readVm, type Vm } from '../models/vm.ts';

export const vmPath = z.object({ uuid });

/** The VM, where it is the owner's. @throws CongerError ResourceNotFound */
export async function loadVm(kv: Kv, vmUuid: string, owner: string | undefined): Promise<KvObject<Vm>> {
  const vm = await readVm(kv, vmUuid);
  if (vm === undefined || (owner !== undefined && owner !== vm.value.owner_uuid)) {
    throw new CongerError('ResourceNotFound', 'VM not found');
  }
  return vm;
}
