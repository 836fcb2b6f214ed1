import { z } from 'zod';
import { CongerError } from '../../../runtime/errors.ts';
import type { JobDefinition, Step } from '../../common/jobs/steps.ts';
import { deleteDesiredOp, newDesired, putDesiredOp, readDesired } from '../models/desired.ts';
import type { WantedNetwork } from '../models/networks.ts';
import { addNics, desiredNic, type NapiNic } from '../models/nics.ts';
import { putVmOp } from '../models/vm.ts';
import { deleteNic, networksByUuid, nicsOf, provisionNics } from './nic-calls.ts';
import { modified, needVm, type VmJobParts, vmUuidOf } from './parts.ts';
import { waitForNode } from './wait-for-node.ts';

/** What POST /vms leaves for the job; the rest is in the VM. */
export interface ProvisionParams {
  readonly networks: readonly WantedNetwork[];
  /** The node that the caller chose. */
  readonly wanted_server_uuid?: string;
  readonly nic_tags: readonly string[];
}

interface Data {
  readonly server_uuid: string;
  readonly nics: readonly NapiNic[];
}

const allocationSchema = z.looseObject({ server: z.looseObject({ uuid: z.string() }) });

/** From a VM that is asked for to one that runs. Undone, it leaves a VM that has `failed`. */
export function provisionJob(parts: VmJobParts): JobDefinition {
  const { kv, napi, cnapi } = parts;

  const allocate: Step = {
    name: 'cnapi.allocate_server',
    async do({ job }) {
      const { wanted_server_uuid, nic_tags } = job.params as unknown as ProvisionParams;
      if (wanted_server_uuid !== undefined) return { data: { server_uuid: wanted_server_uuid } };
      const { value: vm } = await needVm(kv, vmUuidOf(job));
      const wanted = {
        vm_uuid: vm.uuid,
        owner_uuid: vm.owner_uuid,
        ram: vm.ram,
        ...(typeof vm.cpu_cap === 'number' ? { cpu_cap: vm.cpu_cap } : {}),
        ...(typeof vm.quota === 'number' ? { quota: vm.quota } : {}),
      };
      const body = { vm: wanted, image: {}, nic_tags, nic_tag_requirements: nic_tags.map((tag) => [tag]) };
      const answer = await cnapi.post<unknown>('/allocate', { body });
      return { data: { server_uuid: allocationSchema.parse(answer.body).server.uuid } };
    },
    async undo({ job }) {
      const vm = await needVm(kv, vmUuidOf(job));
      const zone_state = vm.value.zone_state === 'destroyed' ? 'destroyed' : 'failed';
      return { ops: [putVmOp(vm, modified(vm.value, { state: 'failed', zone_state }))] };
    },
  };

  const provision: Step = {
    name: 'napi.provision_nics',
    async do(context) {
      const { job } = context;
      const { networks } = job.params as unknown as ProvisionParams;
      const { server_uuid } = job.data as unknown as Data;
      const { value: vm } = await needVm(kv, vmUuidOf(job));
      return { data: { nics: await provisionNics(napi, context, vm, server_uuid, networks, []) } };
    },
    async undo({ job }) {
      for (const nic of await nicsOf(napi, vmUuidOf(job))) await deleteNic(napi, nic.mac);
      return undefined;
    },
  };

  const place: Step = {
    name: 'vmapi.place',
    async do({ job }) {
      const data = job.data as unknown as Data;
      const vm = await needVm(kv, vmUuidOf(job));
      const nics = addNics([], data.nics);
      const networks = await networksByUuid(
        napi,
        nics.map((nic) => nic.network_uuid),
      );
      const given = vm.value.resolvers;
      const resolvers = given.length > 0 ? given : [...new Set(data.nics.flatMap((nic) => nic.resolvers))];
      const next = modified(vm.value, { server_uuid: data.server_uuid, nics, resolvers });
      const desired = newDesired(next, data.server_uuid, {
        state: next.autoboot ? 'running' : 'stopped',
        nics: nics.flatMap((nic) => {
          const network = networks.get(nic.network_uuid);
          return network === undefined ? [] : [desiredNic(nic, network)];
        }),
      });
      return { ops: [putVmOp(vm, next), putDesiredOp(undefined, desired)] };
    },
    async undo({ job }) {
      const vm = await needVm(kv, vmUuidOf(job));
      const desired = await readDesired(kv, vmUuidOf(job));
      return {
        ops: [
          putVmOp(vm, modified(vm.value, { nics: [] })),
          ...(desired === undefined ? [] : [deleteDesiredOp(desired)]),
        ],
      };
    },
  };

  const wait = waitForNode(parts, (vm) => {
    if (vm.state === 'failed') throw new CongerError('Conflict', `VM ${vm.uuid} has failed on its node`);
    return vm.state === (vm.autoboot ? 'running' : 'stopped');
  });

  return { name: 'provision-1.0.0', steps: [allocate, provision, place, wait] };
}
