import { z } from 'zod';
import type { Kv, KvObject } from '../../../kvstore/types.ts';
import { CongerError, isCongerError } from '../../../runtime/errors.ts';
import { requestKey, validationError, validationStyles } from '../../common/http.ts';
import { derivedUuid } from '../../common/ids.ts';
import { type VmRecord, vmsBucket } from '../../common/records.ts';
import { retryOnConflict } from '../../common/retry.ts';
import type { ServiceContext } from '../../common/service.ts';
import {
  nextVersion,
  parseRule,
  presentRule,
  type RuleRecord,
  recordOfRule,
  ruleOfRecord,
  rulesBucket,
} from '../models/rule.ts';
import { ruleNames } from '../models/targets.ts';
import { listFilter, listQuerySchema } from './list-filter.ts';

const uuidParams = z.object({ uuid: z.uuid() });
const ownerQuery = z.strictObject({ owner_uuid: z.uuid().optional() });

const ruleFields = {
  rule: z.string().min(1),
  enabled: z.union([z.boolean(), z.enum(['true', 'false'])]).optional(),
  log: z.union([z.boolean(), z.enum(['true', 'false'])]).optional(),
  global: z.union([z.boolean(), z.enum(['true', 'false'])]).optional(),
  owner_uuid: z.uuid().optional(),
  description: z.string().max(255).optional(),
  created_by: z.string().optional(),
  uuid: z.uuid().optional(),
  version: z.string().optional(),
};
const createSchema = z.strictObject(ruleFields);
const updateSchema = createSchema.partial();

/** CRUD of rules. Writes are answered 202 (deletes 204) with `x-update-id`: the id of the request, which its changes carry. */
export function ruleRoutes({ app, kv }: ServiceContext): void {
  app.get('/rules', { schema: { querystring: listQuerySchema } }, async (request, reply) => {
    const { limit, offset, fields } = request.query;
    const found = await kv.find<RuleRecord>(rulesBucket.name, listFilter(request.query), {
      limit,
      offset,
      sort: { attribute: 'uuid', order: 'ASC' },
    });
    void reply.header('x-joyent-resource-count', found.count);
    return found.objects.map((object) => presentRule(object.value, fields));
  });

  app.post('/rules', { schema: { body: createSchema } }, async (request, reply) => {
    const { created_by, ...given } = request.body;
    const key = requestKey(request);
    const rule = parseRule({ ...given, uuid: given.uuid ?? derivedUuid('fwapi rule', key) });
    const record = recordOfRule(rule, {
      request_key: key,
      ...(created_by === undefined ? {} : { created_by }),
    });
    const stored = await createOnce(kv, record);
    return reply.code(202).header('x-update-id', request.id).send(presentRule(stored));
  });

  app.get('/rules/:uuid', { schema: { params: uuidParams, querystring: ownerQuery } }, async (request) => {
    return presentRule((await readRule(kv, request.params.uuid, request.query.owner_uuid)).value);
  });

  app.put('/rules/:uuid', { schema: { params: uuidParams, body: updateSchema } }, async (request, reply) => {
    const { created_by, uuid: _uuid, ...given } = request.body;
    const record = await retryOnConflict(`rule ${request.params.uuid}`, async () => {
      const old = await readRule(kv, request.params.uuid, given.owner_uuid);
      const { global: wasGlobal, ...before } = ruleOfRecord(old.value).serialize();
      const rule = parseRule({
        ...before,
        ...(wasGlobal && given.owner_uuid === undefined ? { global: true } : {}),
        ...given,
        uuid: request.params.uuid,
        version: nextVersion(),
      });
      const next = recordOfRule(rule, {
        request_key: requestKey(request),
        ...createdBy(created_by ?? old.value.created_by),
      });
      await kv.put(rulesBucket.name, rule.uuid, next, { etag: old._etag });
      return next;
    });
    return reply.code(202).header('x-update-id', request.id).send(presentRule(record));
  });

  app.delete(
    '/rules/:uuid',
    { schema: { params: uuidParams, querystring: ownerQuery } },
    async (request, reply) => {
      await readRule(kv, request.params.uuid, request.query.owner_uuid);
      await kv.del(rulesBucket.name, request.params.uuid).catch(asNotFound);
      return reply.code(204).header('x-update-id', request.id).send();
    },
  );

  app.get(
    '/rules/:uuid/vms',
    { schema: { params: uuidParams, querystring: z.strictObject({ owner_uuid: z.uuid() }) } },
    async (request) => {
      const { owner_uuid } = request.query;
      const rule = ruleOfRecord((await readRule(kv, request.params.uuid, owner_uuid)).value);
      const live = `(&(owner_uuid=${owner_uuid})(!(state=destroyed))(!(state=failed))(!(state=provisioning)))`;
      const vms = await kv.find<VmRecord>(vmsBucket.name, live, { noLimit: true });
      return vms.objects.filter((vm) => ruleNames(rule, vm.value)).map((vm) => presentVm(vm.value));
    },
  );
}

/** A machine as `/rules/:uuid/vms` names it: what identifies it, and what decides whether the rule holds. */
function presentVm(vm: VmRecord): Record<string, unknown> {
  const { uuid, owner_uuid, server_uuid, alias, state, firewall_enabled, nics } = vm;
  return {
    uuid,
    owner_uuid,
    server_uuid,
    alias,
    state,
    firewall_enabled: firewall_enabled === true,
    tags: vm.tag_map,
    nics,
  };
}

function createdBy(value: string | undefined): { created_by?: string } {
  return value === undefined ? {} : { created_by: value };
}

/** Writes a new rule. A repeat of the request that wrote it finds it there, and answers it. */
async function createOnce(kv: Kv, record: RuleRecord): Promise<RuleRecord> {
  try {
    await kv.put(rulesBucket.name, record.uuid, record, { etag: null });
    return record;
  } catch (error) {
    if (!isCongerError(error, 'EtagConflictError')) throw error;
    const present = await kv.tryGet<RuleRecord>(rulesBucket.name, record.uuid);
    if (present?.value.request_key === record.request_key && present !== undefined) return present.value;
    throw validationError(validationStyles.fwapi, [
      { field: 'uuid', code: 'Duplicate', message: 'already exists' },
    ]);
  }
}

/** @throws ResourceNotFound; InvalidParameters (403) where the rule is another owner's */
async function readRule(kv: Kv, uuid: string, owner: string | undefined): Promise<KvObject<RuleRecord>> {
  const object = await kv.get<RuleRecord>(rulesBucket.name, uuid).catch(asNotFound);
  if (owner !== undefined && object.value.owner !== owner && object.value.owner !== undefined) {
    throw new CongerError('InvalidParameters', 'owner does not match', {
      status: 403,
      errors: [{ field: 'owner_uuid', code: 'InvalidParameter', message: 'owner_uuid does not match' }],
    });
  }
  return object;
}

function asNotFound(error: unknown): never {
  if (isCongerError(error, 'ObjectNotFoundError'))
    throw new CongerError('ResourceNotFound', 'Rule not found');
  throw error;
}
