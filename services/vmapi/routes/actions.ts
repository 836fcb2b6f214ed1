import { CongerError } from '../../../runtime/errors.ts';
import type { UpdateParams } from '../jobs/update.ts';
import { metadataKinds } from '../models/metadata.ts';
import { type ActionParams, actionSchema, plainUpdateFields } from '../models/params.ts';
import type { Vm } from '../models/vm.ts';
import { answerJob, submit, type VmApi } from '../submit.ts';
import { checkAlias } from './create.ts';
import { loadVm, vmPath } from './load.ts';
import { setMetadata } from './metadata.ts';
import { resolveNetworks } from './networks.ts';
import { invalid, invalidField, mergeQuery } from './validation.ts';

/** POST /vms/:uuid?action=...: parameters stand in the query or in the body. */
export function actionRoute(api: VmApi): void {
  const { app, kv } = api.context;
  app.post(
    '/vms/:uuid',
    { preValidation: mergeQuery, schema: { params: vmPath, body: actionSchema } },
    async (request, reply) => {
      const asked = request.body;
      const { value: vm } = await loadVm(kv, request.params.uuid, asked.owner_uuid);
      if (vm.state === 'provisioning') {
        throw new CongerError(
          'UnallocatedVM',
          `Cannot call ${asked.action} for a VM that has not been provisioned yet`,
        );
      }
      const params = await paramsOf(api, vm, asked);
      const { action: task } = asked;
      const job = await submit(api, request, { task, target: vm, what: asked, by: asked, params });
      return answerJob(api, request, reply, job, asked.sync);
    },
  );
}

async function paramsOf(api: VmApi, vm: Vm, asked: ActionParams): Promise<Record<string, unknown>> {
  switch (asked.action) {
    case 'update':
      return updateParams(api, vm, asked);
    case 'add_nics': {
      if (asked.networks === undefined) return { macs: asked.macs };
      const found = await resolveNetworks(api.context.client('napi'), asked.networks, vm.owner_uuid);
      if (found.errors.length > 0) throw invalid(...found.errors);
      return { networks: found.wanted };
    }
    case 'remove_nics': {
      const own = new Set(vm.nics.map((nic) => nic.mac));
      const strange = asked.macs.filter((mac) => !own.has(mac));
      if (strange.length > 0)
        throw invalid(invalidField('macs', `Not NICs of this VM: ${strange.join(', ')}`));
      return { macs: asked.macs };
    }
    case 'kill':
      return asked.signal === undefined ? {} : { signal: asked.signal };
    default:
      return { current_state: vm.state };
  }
}

type Update = Extract<ActionParams, { action: 'update' }>;

async function updateParams(
  api: VmApi,
  vm: Vm,
  asked: Update,
): Promise<UpdateParams & Record<string, unknown>> {
  const plain = plainUpdateFields.filter((field) => asked[field] !== undefined);
  const kinds = metadataKinds.filter((kind) => asked[kind] !== undefined);
  if (plain.length === 0 && kinds.length === 0) {
    throw new CongerError('ValidationFailed', 'No VM parameters provided', { errors: [] });
  }
  if (asked.alias !== undefined) {
    const errors = await checkAlias(api, vm.owner_uuid, asked.alias, vm.uuid);
    if (errors.length > 0) throw invalid(...errors);
  }
  const metadata = kinds.map((kind) => setMetadata(vm, kind, asked[kind] ?? {}));
  return {
    subtask: subtaskOf(asked),
    payload: Object.assign(Object.fromEntries(plain.map((field) => [field, asked[field]])), ...metadata),
    replace: kinds,
  };
}

function subtaskOf(asked: Update): string {
  if ([asked.billing_id, asked.ram, asked.max_physical_memory].some((given) => given !== undefined))
    return 'resize';
  return asked.alias === undefined ? '' : 'rename';
}
