import { z } from 'zod';
import { nicSchema } from '../../../agents/contract/desired.ts';
import { CongerError } from '../../../runtime/errors.ts';
import type { JobDefinition } from '../../common/jobs/steps.ts';
import { changeDesiredOp, readDesired } from '../models/desired.ts';
import type { WantedNetwork } from '../models/networks.ts';
import { addNics, desiredNic, removeNics, withOnePrimary } from '../models/nics.ts';
import { putVmOp, readVm, type VmNic } from '../models/vm.ts';
import { attachNics, deleteNic, hasNic, networksByUuid, nicsOf, provisionNics } from './nic-calls.ts';
import { modified, needDesired, needVm, type VmJobParts, vmUuidOf } from './parts.ts';

/** Either networks on which NICs are to be made, or NICs that NAPI has already. */
export interface AddNicsParams {
  readonly networks?: readonly WantedNetwork[];
  readonly macs?: readonly string[];
}

/** The NICs come to be in NAPI; the VM and its node then get all of them at once. */
export function addNicsJob({ kv, napi }: VmJobParts): JobDefinition {
  return {
    name: 'add-nics-1.0.0',
    steps: [
      {
        name: 'napi.add_nics',
        async do(context) {
          const { networks, macs = [] } = context.job.params as AddNicsParams;
          const vm = await needVm(kv, vmUuidOf(context.job));
          const desired = await needDesired(kv, vm.key);
          const server = vm.value.server_uuid;
          if (server === null) throw new CongerError('Conflict', `VM ${vm.key} is not on a node`);
          const taken = vm.value.nics.map((nic) => nic.mac);
          const added =
            networks === undefined
              ? await attachNics(
                  napi,
                  vm.value,
                  server,
                  macs.filter((mac) => !taken.includes(mac)),
                )
              : await provisionNics(napi, context, vm.value, server, networks, taken);
          const nics = addNics(vm.value.nics, added);
          const details = await networksByUuid(
            napi,
            added.map((nic) => nic.network_uuid),
          );
          const before = desired.value.body.nics.map((nic) => ({
            ...nic,
            primary: nics.find(({ mac }) => mac === nic.mac)?.primary ?? false,
          }));
          const after = nics.flatMap((nic) => {
            const network = details.get(nic.network_uuid);
            return network === undefined || taken.includes(nic.mac) ? [] : [desiredNic(nic, network)];
          });
          const more = added.flatMap((nic) => nic.resolvers);
          const resolvers = [...new Set([...vm.value.resolvers, ...more])];
          return {
            result: `added ${added.map((nic) => nic.mac).join(', ')}`,
            ops: [
              putVmOp(vm, modified(vm.value, { nics, resolvers })),
              changeDesiredOp(desired, { nics: [...before, ...after] }),
            ],
          };
        },
        async undo({ job }) {
          // NICs that were there before the job are their maker's.
          if ((job.params as AddNicsParams).networks === undefined) return undefined;
          const vm = await readVm(kv, vmUuidOf(job));
          const own = new Set(vm?.value.nics.map((nic) => nic.mac));
          for (const nic of await nicsOf(napi, vmUuidOf(job)))
            if (!own.has(nic.mac)) await deleteNic(napi, nic.mac);
          return undefined;
        },
      },
    ],
  };
}

const removedSchema = z.object({
  macs: z.array(z.string()),
  vm_nics: z.array(z.custom<VmNic>()),
  desired_nics: z.array(nicSchema),
});

/** The VM and its node lose the NICs first, so that their addresses are free in NAPI only when nobody uses them. */
export function removeNicsJob({ kv, napi }: VmJobParts): JobDefinition {
  return {
    name: 'remove-nics-1.0.0',
    steps: [
      {
        name: 'vmapi.remove_nics',
        async do({ job }) {
          const { macs } = job.params as { macs: readonly string[] };
          const vm = await needVm(kv, vmUuidOf(job));
          const desired = await needDesired(kv, vm.key);
          const nics = removeNics(vm.value.nics, macs);
          const removed: z.output<typeof removedSchema> = {
            macs: [...macs],
            vm_nics: vm.value.nics.filter((nic) => macs.includes(nic.mac)),
            desired_nics: desired.value.body.nics.filter((nic) => macs.includes(nic.mac)),
          };
          const left = desired.value.body.nics.filter((nic) => !macs.includes(nic.mac));
          return {
            data: { removed },
            ops: [
              putVmOp(vm, modified(vm.value, { nics })),
              changeDesiredOp(desired, { nics: withOnePrimary(left) }),
            ],
          };
        },
        async undo({ job }) {
          const removed = removedSchema.safeParse(job.data.removed);
          const vm = await readVm(kv, vmUuidOf(job));
          const desired = await readDesired(kv, vmUuidOf(job));
          if (!removed.success || vm === undefined || desired === undefined) return undefined;
          const left = new Set<string>();
          for (const mac of removed.data.macs) if (await hasNic(napi, mac)) left.add(mac);
          const nics = removed.data.vm_nics.filter((nic) => left.has(nic.mac));
          const desiredNics = removed.data.desired_nics.filter((nic) => left.has(nic.mac));
          return {
            ops: [
              putVmOp(vm, modified(vm.value, { nics: withOnePrimary([...vm.value.nics, ...nics]) })),
              changeDesiredOp(desired, {
                nics: withOnePrimary([...desired.value.body.nics, ...desiredNics]),
              }),
            ],
          };
        },
      },
      {
        name: 'napi.delete_nics',
        async do({ job }) {
          for (const mac of (job.params as { macs: readonly string[] }).macs) await deleteNic(napi, mac);
          return undefined;
        },
      },
    ],
  };
}
