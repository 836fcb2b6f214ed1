import { z } from 'zod';
import type { Kv, KvObject } from '../../../kvstore/types.ts';
import { fieldList, paging, pickFields } from '../../common/fields.ts';
import { requestKey } from '../../common/http.ts';
import { derivedUuid } from '../../common/ids.ts';
import { retryOnConflict } from '../../common/retry.ts';
import type { ServiceContext } from '../../common/service.ts';
import { networksBucket } from '../models/buckets.ts';
import { notFound } from '../models/errors.ts';
import { type NetworkRecord, networkFields, presentNetwork, uniqueName } from '../models/network.ts';
import {
  checkFabricSubnet,
  checkNewNetwork,
  createFabricNetworkSchema,
  type Range,
  updateNetworkSchema,
} from '../models/network-params.ts';
import { createNetwork, deleteNetwork, readNetworkOf } from '../models/network-store.ts';
import { updateNetwork } from '../models/network-update.ts';
import { overlayMtu, overlayTag } from '../models/nic-tags.ts';
import { checkIfMatch, sendEtag } from './etag.ts';
import { readVlan, vlanParams } from './vlans.ts';

const params = vlanParams.extend({ uuid: z.string() });
type Params = z.output<typeof params>;
const fields = fieldList(networkFields).optional();
const underFabrics = { underFabrics: true } as const;

/** The networks of an owner's fabric: overlays, each an owner's alone. */
export function fabricNetworkRoutes({ app, kv }: ServiceContext): void {
  const path = '/fabrics/:owner_uuid/vlans/:vlan_id/networks';
  const listSchema = z.strictObject({ ...paging, fields });

  app.get(path, { schema: { params: vlanParams, querystring: listSchema } }, async (request) => {
    const { owner_uuid, vlan_id } = request.params;
    const { limit, offset, fields: wanted } = request.query;
    await readVlan(kv, owner_uuid, vlan_id);
    const filter = `(&(owner_uuid=${owner_uuid})(vlan_id=${vlan_id})(fabric=true))`;
    const found = await kv.find<NetworkRecord>(networksBucket.name, filter, {
      limit,
      offset,
      sort: { attribute: 'name_str', order: 'ASC' },
    });
    return found.objects.map(({ value }) => pickFields(presentNetwork(value, underFabrics), wanted));
  });

  app.post(
    path,
    { schema: { params: vlanParams, body: createFabricNetworkSchema } },
    async (request, reply) => {
      const { owner_uuid: owner, vlan_id } = request.params;
      const vlan = await readVlan(kv, owner, vlan_id);
      const range = checkNewNetwork(request.body);
      checkFabricSubnet(range.parsed);
      const place = { owner, vlan: vlan_id, vnet: vlan.value.vnet_id };
      const record = recordOf(request.body, range, place, requestKey(request));
      const network = await createNetwork(kv, record, async () => {
        await readVlan(kv, owner, vlan_id);
      });
      sendEtag(reply, network._etag);
      return pickFields(presentNetwork(network.value, underFabrics), request.body.fields);
    },
  );

  app.get(
    `${path}/:uuid`,
    { schema: { params, querystring: z.strictObject({ fields }) } },
    async (request, reply) => {
      const network = await readFabricNetwork(kv, request.params);
      checkIfMatch(request, network._etag);
      sendEtag(reply, network._etag);
      return pickFields(presentNetwork(network.value, underFabrics), request.query.fields);
    },
  );

  app.put(`${path}/:uuid`, { schema: { params, body: updateNetworkSchema } }, (request, reply) =>
    retryOnConflict(`network ${request.params.uuid}`, async () => {
      const network = await readFabricNetwork(kv, request.params);
      checkIfMatch(request, network._etag);
      const { record, etag } = await updateNetwork(kv, network, request.body);
      sendEtag(reply, etag);
      return presentNetwork(record, underFabrics);
    }),
  );

  app.delete(`${path}/:uuid`, { schema: { params } }, async (request, reply) => {
    await retryOnConflict(`network ${request.params.uuid}`, async () => {
      const network = await readFabricNetwork(kv, request.params);
      checkIfMatch(request, network._etag);
      await deleteNetwork(kv, network);
    });
    return reply.code(204).send();
  });
}

/** @throws ResourceNotFound where the owner has no such VLAN, or no such network on it */
async function readFabricNetwork(
  kv: Kv,
  { owner_uuid, vlan_id, uuid }: Params,
): Promise<KvObject<NetworkRecord>> {
  await readVlan(kv, owner_uuid, vlan_id);
  const network = await readNetworkOf(kv, uuid, owner_uuid);
  if (network.value.owner_uuid !== owner_uuid || network.value.vlan_id !== vlan_id)
    throw notFound('network not found');
  return network;
}

function recordOf(
  body: z.output<typeof createFabricNetworkSchema>,
  range: Range,
  { owner, vlan, vnet }: { owner: string; vlan: number; vnet: number },
  key: string,
): NetworkRecord {
  // As in Triton: NAT needs a gateway, and takes the first address where none is given.
  const gateway = body.gateway ?? (body.internet_nat === true ? range.provision_start_ip : undefined);
  return {
    uuid: body.uuid ?? derivedUuid('napi network', key),
    name: body.name,
    name_str: uniqueName(owner, body.name),
    fabric: true,
    vnet_id: vnet,
    owner_uuid: owner,
    owner_uuids_arr: [owner],
    nic_tag: overlayTag,
    vlan_id: vlan,
    mtu: overlayMtu,
    subnet: range.subnet,
    subnet_type: range.parsed.family,
    provision_start_ip_addr: range.provision_start_ip,
    provision_end_ip_addr: range.provision_end_ip,
    resolver_addrs: body.resolvers ?? [],
    internet_nat: body.internet_nat ?? true,
    ...(gateway === undefined ? {} : { gateway_addr: gateway, gateway_provisioned: false }),
    ...(body.routes === undefined ? {} : { routes: body.routes }),
    ...(body.description === undefined ? {} : { description: body.description }),
    request_key: key,
    v: 4,
  };
}
