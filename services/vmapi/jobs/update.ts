import { isDeepStrictEqual } from 'node:util';
import { CongerError } from '../../../runtime/errors.ts';
import type { JobDefinition } from '../../common/jobs/steps.ts';
import { changeDesiredOp, readDesired, shownFields } from '../models/desired.ts';
import { applyMetadata, type Metadata, type MetadataKind, metadataKinds } from '../models/metadata.ts';
import { plainUpdateFields } from '../models/params.ts';
import { putVmOp, type Vm, withMetadata } from '../models/vm.ts';
import { modified, needVm, type VmJobParts, vmUuidOf } from './parts.ts';

/** What an update is to change, with Triton's names; `replace` says of which kinds only the pairs that are set stay. */
export type UpdatePayload = Readonly<Record<string, unknown>> & {
  readonly [K in `set_${MetadataKind}`]?: Metadata;
} & { readonly [K in `remove_${MetadataKind}`]?: readonly string[] };

export interface UpdateParams {
  readonly payload: UpdatePayload;
  readonly replace: readonly MetadataKind[];
}

/** Changes the VM, and what its node is to have where that shows it, at once. */
export function updateJob({ kv }: VmJobParts): JobDefinition {
  return {
    name: 'update-1.0.0',
    steps: [
      {
        name: 'vmapi.update',
        async do({ job }) {
          const vm = await needVm(kv, vmUuidOf(job));
          if (vm.value.state === 'destroyed') throw new CongerError('Conflict', `VM ${vm.key} is destroyed`);
          const next = updated(vm.value, job.params as unknown as UpdateParams);
          const desired = await readDesired(kv, vm.key);
          const shown = shownFields(next);
          const isShown =
            desired === undefined ||
            isDeepStrictEqual({ ...desired.value.body, ...shown }, desired.value.body);
          return { ops: [putVmOp(vm, next), ...(isShown ? [] : [changeDesiredOp(desired, shown)])] };
        },
      },
    ],
  };
}

function updated(vm: Vm, { payload, replace }: UpdateParams): Vm {
  const plain = plainUpdateFields.filter((field) => payload[field] !== undefined);
  const fields = Object.fromEntries(plain.map((field) => [field, payload[field]]));
  if (fields.ram === undefined && fields.max_physical_memory !== undefined)
    fields.ram = fields.max_physical_memory;
  if (fields.max_physical_memory === undefined && fields.ram !== undefined)
    fields.max_physical_memory = fields.ram;
  const present = {
    customer_metadata: vm.customer_metadata,
    internal_metadata: vm.internal_metadata,
    tags: vm.tag_map,
  };
  const metadata = metadataKinds.map((kind) => {
    const change = {
      set: payload[`set_${kind}`],
      remove: payload[`remove_${kind}`],
      replace: replace.includes(kind),
    };
    return [kind, applyMetadata(present[kind], change)] as const;
  });
  return withMetadata(modified(vm, fields), Object.fromEntries(metadata));
}
