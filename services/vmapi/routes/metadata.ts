import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { CongerError } from '../../../runtime/errors.ts';
import type { UpdateParams, UpdatePayload } from '../jobs/update.ts';
import {
  isProtected,
  type Metadata,
  type MetadataKind,
  metadataKinds,
  metadataSchema,
  metadatumNames,
} from '../models/metadata.ts';
import { callFields, uuid } from '../models/params.ts';
import type { Vm } from '../models/vm.ts';
import { answerJob, submit, type VmApi } from '../submit.ts';
import { loadVm, vmPath } from './load.ts';
import { invalid, invalidField, parse } from './validation.ts';

const keyPath = vmPath.extend({ key: z.string() });
const readQuery = z.strictObject({ owner_uuid: uuid.optional() });
const writeQuery = z.strictObject(callFields);
const pairs = z.record(z.string(), z.unknown(), { error: 'Invalid parameter' });

/** customer_metadata, internal_metadata and tags: /vms/:uuid/<kind>[/:key], the same for each. */
export function metadataRoutes(api: VmApi): void {
  for (const kind of metadataKinds) kindRoutes(api, kind);
}

/** What a PUT of all pairs asks of the update job. Which pairs there are then, the job sees. */
export function setMetadata(vm: Vm, kind: MetadataKind, set: Metadata): UpdatePayload {
  const present = metadataOf(vm, kind);
  const remove = Object.keys(present).filter((key) => !(key in set));
  for (const key of remove) refuseProtected(kind, key);
  return { [`set_${kind}`]: set, ...(remove.length === 0 ? {} : { [`remove_${kind}`]: remove }) };
}

function kindRoutes(api: VmApi, kind: MetadataKind): void {
  const { app, kv } = api.context;
  const all = `/vms/:uuid/${kind}`;
  const reading = { schema: { params: vmPath, querystring: readQuery } };
  const writing = { schema: { params: vmPath, querystring: writeQuery, body: pairs } };
  const deleting = { schema: { params: vmPath, querystring: writeQuery } };

  app.get(all, reading, async (request) => {
    return metadataOf((await loadVm(kv, request.params.uuid, request.query.owner_uuid)).value, kind);
  });

  app.get(`${all}/:key`, { schema: { params: keyPath, querystring: readQuery } }, async (request, reply) => {
    const { value: vm } = await loadVm(kv, request.params.uuid, request.query.owner_uuid);
    // Sent as JSON whatever its type: a bare string as well.
    void reply.type('application/json; charset=utf-8').serializer((value: unknown) => JSON.stringify(value));
    return reply.send(pairOf(vm, kind, request.params.key));
  });

  app.post(all, writing, async (request, reply) => {
    const { value: vm } = await loadVm(kv, request.params.uuid, request.query.owner_uuid);
    return update(api, request, reply, vm, { [`set_${kind}`]: given(kind, request.body) }, []);
  });

  app.put(all, writing, async (request, reply) => {
    const { value: vm } = await loadVm(kv, request.params.uuid, request.query.owner_uuid);
    const payload = setMetadata(vm, kind, given(kind, request.body));
    return update(api, request, reply, vm, payload, [kind]);
  });

  app.delete(
    `${all}/:key`,
    { schema: { params: keyPath, querystring: writeQuery } },
    async (request, reply) => {
      const { key } = request.params;
      const { value: vm } = await loadVm(kv, request.params.uuid, request.query.owner_uuid);
      pairOf(vm, kind, key);
      refuseProtected(kind, key);
      return update(api, request, reply, vm, { [`remove_${kind}`]: [key] }, []);
    },
  );

  app.delete(all, deleting, async (request, reply) => {
    const { value: vm } = await loadVm(kv, request.params.uuid, request.query.owner_uuid);
    return update(api, request, reply, vm, setMetadata(vm, kind, {}), [kind]);
  });
}

async function update(
  api: VmApi,
  request: FastifyRequest,
  reply: FastifyReply,
  vm: Vm,
  payload: UpdatePayload,
  replace: readonly MetadataKind[],
) {
  const query = request.query as z.output<typeof writeQuery>;
  const params: UpdateParams & Record<string, unknown> = { subtask: 'metadata', payload, replace };
  const what = [request.method, request.url.split('?')[0], request.body];
  const job = await submit(api, request, { task: 'update', target: vm, what, by: query, params });
  return answerJob(api, request, reply, job, query.sync);
}

/** The pairs of a body, of which there must be one at least. @throws CongerError ValidationFailed */
function given(kind: MetadataKind, body: unknown): Metadata {
  const schema = z.object({ [kind]: metadataSchema(kind, { creating: false }) });
  const set = parse(schema, { [kind]: body })[kind] as Metadata;
  if (Object.keys(set).length === 0) throw invalid(invalidField(kind));
  return set;
}

function metadataOf(vm: Vm, kind: MetadataKind): Metadata {
  return kind === 'tags' ? vm.tag_map : vm[kind];
}

/** @throws CongerError ResourceNotFound */
function pairOf(vm: Vm, kind: MetadataKind, key: string): string | number | boolean {
  const pairsNow = metadataOf(vm, kind);
  const value = Object.hasOwn(pairsNow, key) ? pairsNow[key] : undefined;
  if (value === undefined) {
    throw new CongerError('ResourceNotFound', `${metadatumNames[kind]} "${key}" not found`);
  }
  return value;
}

function refuseProtected(kind: MetadataKind, key: string): void {
  if (isProtected(kind, key)) throw invalid(invalidField(kind, `Special tag "${key}" may not be deleted`));
}
