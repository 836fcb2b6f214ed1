import type { Kv, KvObject } from '../../../kvstore/types.ts';
import { CongerError, isCongerError } from '../../../runtime/errors.ts';
import { requestKey } from '../../common/http.ts';
import { derivedUuid } from '../../common/ids.ts';
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
import { ownerQuery, required, ruleParams, ruleSchema } from '../models/rule-params.ts';
import { listFilter, listQuerySchema } from './list-filter.ts';

/**
 * CRUD of rules. Writes are answered 202 (deletes 204) with `x-update-id`: the id of the request, which its changes
 * carry.
 */
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

  app.post('/rules', { schema: { body: ruleSchema } }, async (request, reply) => {
    const { created_by, ...given } = request.body;
    required('rule', given.rule);
    const key = requestKey(request);
    const rule = parseRule({ ...given, uuid: given.uuid ?? derivedUuid('fwapi rule', key) });
    const record = recordOfRule(rule, { request_key: key, ...createdBy(created_by) });
    const stored = await createOnce(kv, record);
    return reply.code(202).header('x-update-id', request.id).send(presentRule(stored));
  });

  const ofOne = { params: ruleParams, querystring: ownerQuery };
  app.get('/rules/:uuid', { schema: ofOne }, async (request) => {
    const rule = await readRule(kv, request.params.uuid);
    checkOwner(rule.value, request.query.owner_uuid);
    return presentRule(rule.value);
  });

  app.put('/rules/:uuid', { schema: { params: ruleParams, body: ruleSchema } }, async (request, reply) => {
    const { created_by, uuid: _uuid, ...given } = request.body;
    const record = await retryOnConflict(`rule ${request.params.uuid}`, async () => {
      const old = await readRule(kv, request.params.uuid);
      checkOwner(old.value, given.owner_uuid);
      const rule = parseRule({
        ...ruleOfRecord(old.value).serialize(),
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

  app.delete('/rules/:uuid', { schema: ofOne }, async (request, reply) => {
    const rule = await readRule(kv, request.params.uuid);
    checkOwner(rule.value, request.query.owner_uuid);
    await kv.del(rulesBucket.name, request.params.uuid).catch(asNotFound);
    return reply.code(204).header('x-update-id', request.id).send();
  });
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
    if (present !== undefined && present.value.request_key === record.request_key) return present.value;
    throw new CongerError('RuleExistsError', 'rule already exists', {
      errors: [{ field: 'uuid', code: 'Duplicate', message: 'Already exists' }],
    });
  }
}

/** @throws ResourceNotFound */
export function readRule(kv: Kv, uuid: string): Promise<KvObject<RuleRecord>> {
  return kv.get<RuleRecord>(rulesBucket.name, uuid).catch(asNotFound);
}

/** A rule is its owner's; a global one is nobody's. @throws Forbidden */
function checkOwner(rule: RuleRecord, owner: string | undefined): void {
  if (owner !== undefined && owner !== rule.owner) throw notTheOwner();
}

export function notTheOwner(): CongerError {
  return new CongerError('Forbidden', 'owner does not match', {
    errors: [{ field: 'owner_uuid', code: 'InvalidParameter', message: 'owner_uuid does not match' }],
  });
}

function asNotFound(error: unknown): never {
  if (isCongerError(error, 'ObjectNotFoundError'))
    throw new CongerError('ResourceNotFound', 'Rule not found');
  throw error;
}
