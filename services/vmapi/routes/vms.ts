import { z } from 'zod';
import { vmsBucket } from '../../common/records.ts';
import { fieldsSchema, listFilter, listPage, listSchema } from '../models/list.ts';
import { callFields, flag, uuid } from '../models/params.ts';
import { pickFields, presentVm, type Vm } from '../models/vm.ts';
import { answerJob, submit, type VmApi } from '../submit.ts';
import { loadVm, vmPath } from './load.ts';

const getQuery = z.strictObject({
  owner_uuid: uuid.optional(),
  fields: fieldsSchema.optional(),
  sync: flag.optional().describe('accepted and of no effect: a node reports by itself'),
});
const deleteQuery = z.strictObject({ ...callFields, context: z.string().optional() });
const statusesQuery = z.strictObject({
  uuids: z
    .string()
    .transform((given) => given.split(','))
    .pipe(z.array(uuid)),
});

/** GET /vms, /vms/:uuid and /statuses, DELETE /vms/:uuid. */
export function vmRoutes(api: VmApi): void {
  const { app, kv } = api.context;

  app.get('/vms', { schema: { querystring: listSchema } }, async (request, reply) => {
    const filter = listFilter(request.query);
    const { after, options } = listPage(request.query);
    const page = after === undefined ? filter : `(&${filter}${after})`;
    const found = await kv.find<Vm>(vmsBucket.name, page, options);
    // Of a later page the count is still that of all that match.
    const count =
      after === undefined ? found.count : (await kv.find<Vm>(vmsBucket.name, filter, { limit: 1 })).count;
    void reply.header('x-joyent-resource-count', count);
    return found.objects.map(({ value }) => pickFields(presentVm(value), request.query.fields));
  });

  app.get('/vms/:uuid', { schema: { params: vmPath, querystring: getQuery } }, async (request) => {
    const vm = await loadVm(kv, request.params.uuid, request.query.owner_uuid);
    return pickFields(presentVm(vm.value), request.query.fields);
  });

  app.delete(
    '/vms/:uuid',
    { schema: { params: vmPath, querystring: deleteQuery } },
    async (request, reply) => {
      const { owner_uuid, sync, ...by } = request.query;
      const { value: vm } = await loadVm(kv, request.params.uuid, owner_uuid);
      const params = { current_state: vm.state };
      const job = await submit(api, request, { task: 'destroy', target: vm, what: null, by, params });
      return answerJob(api, request, reply, job, sync);
    },
  );

  app.get('/statuses', { schema: { querystring: statusesQuery } }, async (request) => {
    const filter = `(|${request.query.uuids.map((one) => `(uuid=${one})`).join('')})`;
    const found = await kv.find<Vm>(vmsBucket.name, filter, { noLimit: true });
    return Object.fromEntries(found.objects.map(({ value }) => [value.uuid, value.state]));
  });
}
