import type { BatchOp } from '../../../kvstore/types.ts';
import type { JobDefinition, Step } from '../../common/jobs/steps.ts';
import {
  changeDesiredOp,
  deleteDesiredOp,
  newDesired,
  putDesiredOp,
  readDesired,
} from '../models/desired.ts';
import { putVmOp } from '../models/vm.ts';
import { deleteNic, nicsOf } from './nic-calls.ts';
import { modified, needVm, type VmJobParts, vmUuidOf } from './parts.ts';
import { waitForNode } from './wait-for-node.ts';

/**
 * There is no way back from a VM's end: these steps have no undo, and a destroy that failed is asked for again. That the
 * VM is to be destroyed stays desired until its node has said that it is, however long the node is away.
 */
export function destroyJob(parts: VmJobParts): JobDefinition {
  const { kv, napi } = parts;
  const remove: Step = {
    name: 'vmapi.remove',
    async do({ job }) {
      const vm = await needVm(kv, vmUuidOf(job));
      const desired = await readDesired(kv, vm.key);
      const { state, zone_state, server_uuid } = vm.value;
      // Where the VM never was on a node, was taken back from it when it failed, or its end there is known, none has anything to tell.
      const isTakenBack = state === 'failed' && desired === undefined;
      const node = isTakenBack || zone_state === 'destroyed' ? null : server_uuid;
      const goes = state !== 'destroyed' && state !== 'stopping' && state !== 'failed';
      const ops: BatchOp[] = goes ? [putVmOp(vm, modified(vm.value, { state: 'stopping' }))] : [];
      if (desired !== undefined) {
        if (desired.value.body.state !== 'destroyed')
          ops.push(changeDesiredOp(desired, { state: 'destroyed' }));
      } else if (node !== null) {
        ops.push(putDesiredOp(undefined, newDesired(vm.value, node, { state: 'destroyed', nics: [] })));
      }
      return { data: { is_on_node: node !== null }, ops };
    },
  };

  // A VM that never was on a node has nobody to wait for.
  const wait = waitForNode(parts, (vm, job) => job.data.is_on_node !== true || vm.zone_state === 'destroyed');

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
      const desired = await readDesired(kv, vm.key);
      const ops: BatchOp[] = desired === undefined ? [] : [deleteDesiredOp(desired)];
      if (vm.value.state !== 'destroyed') {
        const destroyed = new Date().toISOString();
        ops.push(putVmOp(vm, modified(vm.value, { state: 'destroyed', zone_state: 'destroyed', destroyed })));
      }
      return { ops };
    },
  };

  return { name: 'destroy-1.0.0', steps: [remove, wait, free, mark] };
}
