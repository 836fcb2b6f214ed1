import { CongerError, type FieldError, isCongerError } from '../../../runtime/errors.ts';
import { requestKey } from '../../common/http.ts';
import { vmsBucket } from '../../common/records.ts';
import type { ProvisionParams } from '../jobs/provision.ts';
import { callId, newVm, withPrimary } from '../models/create.ts';
import { escapeFilter } from '../models/list.ts';
import type { WantedNetwork } from '../models/networks.ts';
import { createSchema } from '../models/params.ts';
import { putVmOp, readVm } from '../models/vm.ts';
import { answerJob, jobUuid, submit, type VmApi } from '../submit.ts';
import { resolveNetworks } from './networks.ts';
import { invalid, invalidField, mergeQuery } from './validation.ts';

/**
 * POST /vms: checks what can be checked at once, writes the VM as `provisioning` together with its job, and answers
 * the job. A repeat of the request answers the job that the first one made.
 */
export function createRoute(api: VmApi): void {
  const { app } = api.context;
  app.post('/vms', { preValidation: mergeQuery, schema: { body: createSchema } }, async (request, reply) => {
    const params = request.body;
    const vmUuid = params.uuid ?? callId(requestKey(request), 'vm', params);
    const vm = newVm(vmUuid, params, new Date());
    const asked = { task: 'provision', target: vm, what: params } as const;
    const earlier = () => api.store.get(jobUuid(request, asked)).then((stored) => stored?.record);
    const create = async () => {
      const networks = await check(api, vmUuid, params);
      const provision: ProvisionParams & Record<string, unknown> = {
        networks: withPrimary(networks.wanted),
        nic_tags: networks.nicTags,
        ...(params.server_uuid === undefined ? {} : { wanted_server_uuid: params.server_uuid }),
      };
      return submit(api, request, {
        ...asked,
        by: params,
        params: provision,
        ops: [putVmOp(undefined, vm)],
      });
    };
    const job =
      (await earlier()) ??
      (await create().catch(async (error: unknown) => {
        // The same request, sent twice at once: what is in the way may be what the other one has made.
        const made = await earlier();
        if (made !== undefined) return made;
        if (isCongerError(error, 'EtagConflictError', 'UniqueAttributeError'))
          throw invalid(duplicate('uuid'));
        throw error;
      }));
    return answerJob(api, request, reply, job, params.sync);
  });
}

function duplicate(field: string, message = 'Already exists'): FieldError {
  return { field, code: 'Duplicate', message };
}

interface Wanted {
  readonly owner_uuid: string;
  readonly uuid?: string | undefined;
  readonly alias?: string | undefined;
  readonly server_uuid?: string | undefined;
  readonly networks: readonly WantedNetwork[];
}

/** @throws CongerError ValidationFailed, with everything that is wrong */
async function check(api: VmApi, vmUuid: string, wanted: Wanted) {
  const { kv } = api.context;
  const errors: FieldError[] = [];
  if (wanted.uuid !== undefined && (await readVm(kv, vmUuid)) !== undefined) errors.push(duplicate('uuid'));
  if (wanted.alias !== undefined) errors.push(...(await checkAlias(api, wanted.owner_uuid, wanted.alias)));
  if (wanted.server_uuid !== undefined) errors.push(...(await checkServer(api, wanted.server_uuid)));
  const networks = await resolveNetworks(api.context.client('napi'), wanted.networks, wanted.owner_uuid);
  errors.push(...networks.errors);
  if (errors.length > 0) throw invalid(...errors);
  return networks;
}

/** An alias is one VM's among those that its owner has. */
export async function checkAlias(
  api: VmApi,
  owner: string,
  alias: string,
  except?: string,
): Promise<FieldError[]> {
  const filter = `(&(owner_uuid=${owner})(alias=${escapeFilter(alias)})(!(state=destroyed))(!(state=failed)))`;
  const found = await api.context.kv.find(vmsBucket.name, filter, { limit: 2 });
  const taken = found.objects.some(({ key }) => key !== except);
  return taken ? [duplicate('alias', 'Already exists for this owner_uuid')] : [];
}

async function checkServer(api: VmApi, uuid: string): Promise<FieldError[]> {
  try {
    await api.context.client('cnapi').get(`/servers/${uuid}`);
    return [];
  } catch (error) {
    if (error instanceof CongerError && error.status === 404)
      return [invalidField('server_uuid', error.message)];
    throw error;
  }
}
