import type { JobDefinition } from '../../common/jobs/steps.ts';
import { destroyJob } from './destroy.ts';
import { addNicsJob, removeNicsJob } from './nics.ts';
import type { VmJobParts } from './parts.ts';
import { powerJob, rebootJob } from './power.ts';
import { provisionJob } from './provision.ts';
import { updateJob } from './update.ts';

/** The bucket of VMAPI's jobs; `vm_uuid` names the VM that a job works on. */
export const vmJobsBucket = 'vmapi_jobs';
export const vmJobsResource = 'vm_uuid';

/** Every task that VMAPI does, and the table of steps that it follows. */
export function vmJobs(parts: VmJobParts): Readonly<Record<VmTask, JobDefinition>> {
  return {
    provision: provisionJob(parts),
    destroy: destroyJob(parts),
    start: powerJob(parts, 'start', 'running'),
    stop: powerJob(parts, 'stop', 'stopped'),
    kill: powerJob(parts, 'kill', 'stopped'),
    reboot: rebootJob(parts),
    update: updateJob(parts),
    add_nics: addNicsJob(parts),
    remove_nics: removeNicsJob(parts),
  };
}

export const vmTasks = [
  'provision',
  'destroy',
  'start',
  'stop',
  'kill',
  'reboot',
  'update',
  'add_nics',
  'remove_nics',
] as const;
export type VmTask = (typeof vmTasks)[number];
