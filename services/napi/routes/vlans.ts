import { randomInt } from 'node:crypto';
import { z } from 'zod';
import type { BatchOp, Kv, KvObject } from '../../../kvstore/types.ts';
import { isCongerError } from '../../../runtime/errors.ts';
import { fieldList, paging, pickFields, text, uuid } from '../../common/fields.ts';
import { requestKey } from '../../common/http.ts';
import { derivedUuid } from '../../common/ids.ts';
import { retryOnConflict, staleIfGone } from '../../common/retry.ts';
import type { ServiceContext } from '../../common/service.ts';
import { fabricsBucket, networksBucket, vlansBucket } from '../models/buckets.ts';
import { inUse, notFound, vlanUsed } from '../models/errors.ts';
import { vlanId } from '../models/fields.ts';
import { networksTurn, readTurn } from '../models/turns.ts';
import { type FabricRecord, presentVlan, type VlanRecord, vlanKey } from '../models/vlan.ts';
import { checkIfMatch, sendEtag } from './etag.ts';

export const ownerParams = z.object({ owner_uuid: uuid });
export const vlanParams = ownerParams.extend({ vlan_id: vlanId });
const fields = fieldList(['description', 'name', 'owner_uuid', 'vlan_id', 'vnet_id']).optional();
const described = { name: text.optional(), description: text.optional() };
// The owner is in the path, and may be in the body as well.
const createSchema = z.strictObject({ ...described, vlan_id: vlanId, owner_uuid: uuid.optional(), fields });
const updateSchema = createSchema.extend({ vlan_id: vlanId.optional() });

const maxVnet = 2 ** 24;

/** The VLANs of an owner's fabric. The first one gives the owner a VXLAN network id of its own. */
export function vlanRoutes({ app, kv }: ServiceContext): void {
  const path = '/fabrics/:owner_uuid/vlans';
  const listSchema = z.strictObject({ ...paging, fields });

  app.get(path, { schema: { params: ownerParams, querystring: listSchema } }, async (request) => {
    const { limit, offset, fields: wanted } = request.query;
    const filter = `(owner_uuid=${request.params.owner_uuid})`;
    const found = await kv.find<VlanRecord>(vlansBucket.name, filter, {
      limit,
      offset,
      sort: { attribute: 'vlan_id', order: 'ASC' },
    });
    return found.objects.map((vlan) => pickFields(presentVlan(vlan.value), wanted));
  });

  app.post(path, { schema: { params: ownerParams, body: createSchema } }, async (request, reply) => {
    const { owner_uuid } = request.params;
    const { name, vlan_id, description } = request.body;
    const fabric = await ensureFabric(kv, owner_uuid);
    const record: VlanRecord = {
      uuid: derivedUuid('napi vlan', owner_uuid, requestKey(request)),
      owner_uuid,
      vlan_id,
      vnet_id: fabric.vnet_id,
      ...(name === undefined ? {} : { name }),
      ...(description === undefined ? {} : { description }),
      v: 0,
    };
    const vlan = await createOnce(kv, record);
    sendEtag(reply, vlan._etag);
    return pickFields(presentVlan(vlan.value), request.body.fields);
  });

  const getSchema = z.strictObject({ fields });
  app.get(
    `${path}/:vlan_id`,
    { schema: { params: vlanParams, querystring: getSchema } },
    async (request, reply) => {
      const vlan = await readVlan(kv, request.params.owner_uuid, request.params.vlan_id);
      checkIfMatch(request, vlan._etag);
      sendEtag(reply, vlan._etag);
      return pickFields(presentVlan(vlan.value), request.query.fields);
    },
  );

  app.put(`${path}/:vlan_id`, { schema: { params: vlanParams, body: updateSchema } }, (request, reply) =>
    retryOnConflict(`vlan ${request.params.vlan_id}`, async () => {
      const vlan = await readVlan(kv, request.params.owner_uuid, request.params.vlan_id);
      checkIfMatch(request, vlan._etag);
      const { name, description } = request.body;
      const next: VlanRecord = {
        ...vlan.value,
        ...(name === undefined ? {} : { name }),
        ...(description === undefined ? {} : { description }),
      };
      sendEtag(reply, (await kv.put(vlansBucket.name, vlan.key, next, { etag: vlan._etag })).etag);
      return pickFields(presentVlan(next), request.body.fields);
    }),
  );

  app.delete(`${path}/:vlan_id`, { schema: { params: vlanParams } }, async (request, reply) => {
    const { owner_uuid, vlan_id } = request.params;
    await retryOnConflict(`vlan ${vlan_id}`, async () => {
      const vlan = await readVlan(kv, owner_uuid, vlan_id);
      const turn = await readTurn(kv, networksTurn(vlan.value.vnet_id));
      const filter = `(&(owner_uuid=${owner_uuid})(vlan_id=${vlan_id})(fabric=true))`;
      const networks = await kv.find(networksBucket.name, filter, { limit: 1000 });
      if (networks.count > 0) {
        const users = networks.objects.map((network) => ({ type: 'network', id: network.key }));
        throw inUse('VLAN must have no networks', users);
      }
      const del: BatchOp = {
        operation: 'delete',
        bucket: vlansBucket.name,
        key: vlan.key,
        etag: vlan._etag,
      };
      await kv.batch([del, turn]).catch(staleIfGone);
    });
    return reply.code(204).send();
  });
}

/** @throws ResourceNotFound */
export async function readVlan(kv: Kv, owner: string, vlan: number): Promise<KvObject<VlanRecord>> {
  const found = await kv.tryGet<VlanRecord>(vlansBucket.name, vlanKey(owner, vlan));
  if (found === undefined) throw notFound('vlan not found');
  return found;
}

/** Writes a new VLAN. A repeat of the request that wrote it is answered with it. @throws InUse */
async function createOnce(kv: Kv, record: VlanRecord): Promise<KvObject<VlanRecord>> {
  try {
    await kv.put(vlansBucket.name, vlanKey(record.owner_uuid, record.vlan_id), record, { etag: null });
  } catch (error) {
    if (!isCongerError(error, 'EtagConflictError')) throw error;
  }
  const vlan = await readVlan(kv, record.owner_uuid, record.vlan_id);
  if (vlan.value.uuid !== record.uuid) throw vlanUsed();
  return vlan;
}

/** The owner's fabric; made with a VXLAN network id that no other owner has, where there is none. */
async function ensureFabric(kv: Kv, owner: string): Promise<FabricRecord> {
  for (;;) {
    const present = await kv.tryGet<FabricRecord>(fabricsBucket.name, owner);
    if (present !== undefined) return present.value;
    const record: FabricRecord = { owner_uuid: owner, vnet_id: randomInt(1, maxVnet) };
    try {
      await kv.put(fabricsBucket.name, owner, record, { etag: null });
    } catch (error) {
      if (!isCongerError(error, 'EtagConflictError', 'UniqueAttributeError')) throw error;
    }
  }
}
