import type { JobDefinition, Step } from '../../common/jobs/steps.ts';
import { deleteDesiredOp, readDesired } from '../models/desired.ts';
import { putVmOp } from '../models/vm.ts';
import { deleteNic, nicsOf } from './nic-calls.ts';
import { modified, needVm, type VmJobParts, vmBuckets, vmUuidOf } from './parts.ts';

/** There is no way back from a VM's end: these steps have no undo, and a destroy that failed is asked for again. */
export function destroyJob({ kv, napi, nodeTimeoutMs }: VmJobParts): JobDefinition {
  const remove: Step = {
    name: 'vmapi.remove',
    async do({ job }) {
      const vm = await needVm(kv, vmUuidOf(job));
      const desired = await readDesired(kv, vm.key);
      const { state, zone_state, server_uuid } = vm.value;
      // Where the VM never was on a node, or its end there is known, no node has anything to tell.
      const isOnNode = server_uuid !== null && state !== 'failed' && zone_state !== 'destroyed';
      const goes = state !== 'destroyed' && state !== 'stopping' && state !== 'failed';
      return {
        data: { is_on_node: isOnNode },
        ops: [
          ...(goes ? [putVmOp(vm, modified(vm.value, { state: 'stopping' }))] : []),
          ...(desired === undefined ? [] : [deleteDesiredOp(desired)]),
        ],
      };
    },
  };

  const wait: Step = {
    name: 'vmapi.wait_for_node',
    timeoutMs: nodeTimeoutMs,
    async do({ job, waitFor }) {
      if (job.data.is_on_node !== true) return undefined;
      const uuid = vmUuidOf(job);
      await waitFor(vmBuckets.vms, uuid, async () => {
        const { value: vm } = await needVm(kv, uuid);
        return vm.zone_state === 'destroyed' ? true : undefined;
      });
      return undefined;
    },
  };

  const free: Step = {
    name: 'napi.delete_nics',
    async do({ job }) {
      for (const nic of await nicsOf(napi, vmUuidOf(job))) await deleteNic(napi, nic.mac);
      return undefined;
    },
  };

  const mark: Step = {
    name: 'vmapi.mark_destroyed',
    async do({ job }) {
      const vm = await needVm(kv, vmUuidOf(job));
      if (vm.value.state === 'destroyed') return undefined;
      const destroyed = new Date().toISOString();
      const next = modified(vm.value, { state: 'destroyed', zone_state: 'destroyed', destroyed });
      return { ops: [putVmOp(vm, next)] };
    },
  };

  return { name: 'destroy-1.0.0', steps: [remove, wait, free, mark] };
}
