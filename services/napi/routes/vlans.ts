import { randomInt } from 'node:crypto';
import { z } from 'zod';
import type { Kv, KvObject } from '../../../kvstore/types.ts';
import { isCongerError } from '../../../runtime/errors.ts';
import { requestKey } from '../../common/http.ts';
import { derivedUuid } from '../../common/ids.ts';
import { retryOnConflict } from '../../common/retry.ts';
import type { ServiceContext } from '../../common/service.ts';
import { fabricsBucket, networksBucket, vlansBucket } from '../models/buckets.ts';
import { duplicate, inUse, notFound } from '../models/errors.ts';
import { listOf, paging, pickFields, vlanId } from '../models/fields.ts';
import { type FabricRecord, presentVlan, type VlanRecord, vlanKey } from '../models/vlan.ts';

export const ownerParams = z.object({ owner: z.uuid() });
export const vlanParams = ownerParams.extend({ vlan: vlanId });
const name = z.string().min(1).max(64);
const fields = listOf(z.string()).optional();
const createSchema = z.strictObject({
  name,
  vlan_id: vlanId,
  description: z.string().max(64).optional(),
  owner_uuid: z.uuid().optional(),
  fields,
});
const updateSchema = z.strictObject({
  name: name.optional(),
  description: z.string().max(64).optional(),
  vlan_id: vlanId.optional(),
  owner_uuid: z.uuid().optional(),
  fields,
});

const maxVnet = 2 ** 24;

/** The VLANs of an owner's fabric. The first one gives the owner a VXLAN network id of its own. */
export function vlanRoutes({ app, kv }: ServiceContext): void {
  const listSchema = z.strictObject({ ...paging, fields });
  app.get(
    '/fabrics/:owner/vlans',
    { schema: { params: ownerParams, querystring: listSchema } },
    async (request) => {
      const { limit, offset } = request.query;
      const found = await kv.find<VlanRecord>(vlansBucket.name, `(owner_uuid=${request.params.owner})`, {
        limit,
        offset,
        sort: { attribute: 'vlan_id', order: 'ASC' },
      });
      return found.objects.map((vlan) => pickFields(presentVlan(vlan.value), request.query.fields));
    },
  );

  app.post(
    '/fabrics/:owner/vlans',
    { schema: { params: ownerParams, body: createSchema } },
    async (request) => {
      const { owner } = request.params;
      const { name: vlanName, vlan_id, description } = request.body;
      const fabric = await ensureFabric(kv, owner);
      const record: VlanRecord = {
        uuid: derivedUuid('napi vlan', requestKey(request)),
        owner_uuid: owner,
        vlan_id,
        vnet_id: fabric.vnet_id,
        name: vlanName,
        ...(description === undefined ? {} : { description }),
        v: 0,
      };
      try {
        await kv.put(vlansBucket.name, vlanKey(owner, vlan_id), record, { etag: null });
      } catch (error) {
        if (!isCongerError(error, 'EtagConflictError')) throw error;
        if ((await readVlan(kv, owner, vlan_id)).value.uuid !== record.uuid) throw duplicate('vlan_id');
      }
      return pickFields(presentVlan(record), request.body.fields);
    },
  );

  app.get('/fabrics/:owner/vlans/:vlan', { schema: { params: vlanParams } }, async (request) => {
    return presentVlan((await readVlan(kv, request.params.owner, request.params.vlan)).value);
  });

  app.put('/fabrics/:owner/vlans/:vlan', { schema: { params: vlanParams, body: updateSchema } }, (request) =>
    retryOnConflict(`vlan ${request.params.vlan}`, async () => {
      const vlan = await readVlan(kv, request.params.owner, request.params.vlan);
      const { name: vlanName, description } = request.body;
      const next: VlanRecord = {
        ...vlan.value,
        ...(vlanName === undefined ? {} : { name: vlanName }),
        ...(description === undefined ? {} : { description }),
      };
      await kv.put(vlansBucket.name, vlan.key, next, { etag: vlan._etag });
      return presentVlan(next);
    }),
  );

  app.delete('/fabrics/:owner/vlans/:vlan', { schema: { params: vlanParams } }, async (request, reply) => {
    const { owner, vlan } = request.params;
    const present = await readVlan(kv, owner, vlan);
    const filter = `(&(owner_uuid=${owner})(vlan_id=${vlan})(fabric=true))`;
    const networks = await kv.find(networksBucket.name, filter, { limit: 100 });
    if (networks.count > 0)
      throw inUse(
        'VLAN',
        networks.objects.map((network) => ({ type: 'network', id: network.key })),
      );
    await kv.del(vlansBucket.name, present.key, { etag: present._etag });
    return reply.code(204).send();
  });
}

/** @throws ResourceNotFound */
export async function readVlan(kv: Kv, owner: string, vlan: number): Promise<KvObject<VlanRecord>> {
  const found = await kv.tryGet<VlanRecord>(vlansBucket.name, vlanKey(owner, vlan));
  if (found === undefined) throw notFound(`vlan ${vlan}`);
  return found;
}

/** The owner's fabric; made with a VXLAN network id that no other owner has, where there is none. */
async function ensureFabric(kv: Kv, owner: string): Promise<FabricRecord> {
  for (;;) {
    const present = await kv.tryGet<FabricRecord>(fabricsBucket.name, owner);
    if (present !== undefined) return present.value;
    const record: FabricRecord = { owner_uuid: owner, vnet_id: randomInt(1, maxVnet), changes: 0 };
    try {
      await kv.put(fabricsBucket.name, owner, record, { etag: null });
    } catch (error) {
      if (!isCongerError(error, 'EtagConflictError', 'UniqueAttributeError')) throw error;
    }
  }
}
