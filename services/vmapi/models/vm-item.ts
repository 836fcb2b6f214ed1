import { isDeepStrictEqual } from 'node:util';
import type { TritonResource } from '../../../changefeed/feeds/triton.ts';
import { vmsBucket } from '../../common/records.ts';
import { presentVm, type Vm } from './vm.ts';

const subResources = [
  'alias',
  'customer_metadata',
  'destroyed',
  'internal_metadata',
  'nics',
  'owner_uuid',
  'server_uuid',
  'state',
  'tags',
] as const;

/** VMs in Triton's changefeed: an item for each change of a field that can be subscribed to, with the whole VM. */
export const vmItem: TritonResource = {
  resource: 'vm',
  subResources,
  bootstrapRoute: '/vms',
  bucket: vmsBucket.name,
  toItem: ({ key, value, previous }) => {
    if (value === null) return { subResources: ['destroyed'], changedResourceId: key };
    const now = presentVm(value as Vm);
    const before = previous === null ? undefined : presentVm(previous as Vm);
    const changed = subResources.filter((field) => !isDeepStrictEqual(now[field], before?.[field]));
    if (changed.length === 0) return undefined;
    return { subResources: changed, changedResourceId: key, extra: { resourceObject: now } };
  },
};
