import type { JobRecord } from '../../common/jobs/record.ts';
import type { Step } from '../../common/jobs/steps.ts';
import type { Vm } from '../models/vm.ts';
import { needVm, type VmJobParts, vmBuckets, vmUuidOf } from './parts.ts';

/**
 * The step that waits until the job's VM is as its node was asked to make it.
 * @param isDone looked at once, and after each change of the VM; what it throws fails the job
 */
export function waitForNode(
  { kv, nodeTimeoutMs }: VmJobParts,
  isDone: (vm: Vm, job: JobRecord) => boolean,
): Step {
  return {
    name: 'vmapi.wait_for_node',
    get timeoutMs() {
      return nodeTimeoutMs();
    },
    async do({ job, waitFor }) {
      const uuid = vmUuidOf(job);
      await waitFor(vmBuckets.vms, uuid, async () => {
        const { value: vm } = await needVm(kv, uuid);
        return isDone(vm, job) ? true : undefined;
      });
      return undefined;
    },
  };
}
