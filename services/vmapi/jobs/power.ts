import type { JobDefinition, Step } from '../../common/jobs/steps.ts';
import { changeDesiredOp, readDesired } from '../models/desired.ts';
import { needDesired, needVm, type VmJobParts, vmUuidOf } from './parts.ts';
import { waitForNode } from './wait-for-node.ts';

type Power = 'running' | 'stopped';

/** start, stop and kill: what is desired of the VM's node, and then what the node shows. */
export function powerJob(parts: VmJobParts, task: 'start' | 'stop' | 'kill', wanted: Power): JobDefinition {
  const { kv } = parts;
  const ask: Step = {
    name: `vmapi.${task}`,
    async do({ job }) {
      const desired = await needDesired(kv, vmUuidOf(job));
      const before = desired.value.body.state;
      return {
        data: { before },
        ops: before === wanted ? [] : [changeDesiredOp(desired, { state: wanted })],
      };
    },
    async undo({ job }) {
      const desired = await readDesired(kv, vmUuidOf(job));
      const { before } = job.data as { before?: Power };
      if (desired === undefined || before === undefined || before === desired.value.body.state)
        return undefined;
      return { ops: [changeDesiredOp(desired, { state: before })] };
    },
  };
  return { name: `${task}-1.0.0`, steps: [ask, waitForNode(parts, (vm) => vm.state === wanted)] };
}

/** reboot: an agent that sees the count go up starts the VM anew and reports it. */
export function rebootJob(parts: VmJobParts): JobDefinition {
  const { kv } = parts;
  const ask: Step = {
    name: 'vmapi.reboot',
    async do({ job }) {
      const desired = await needDesired(kv, vmUuidOf(job));
      // Read before the reboot is asked for: a later report is of a state after it.
      const { value: vm } = await needVm(kv, vmUuidOf(job));
      const reboots = desired.value.body.reboots + 1;
      return {
        data: { reported: vm.reported },
        ops: [changeDesiredOp(desired, { state: 'running', reboots })],
      };
    },
  };
  const wait = waitForNode(parts, (vm, job) => vm.state === 'running' && vm.reported !== job.data.reported);
  return { name: 'reboot-1.0.0', steps: [ask, wait] };
}
