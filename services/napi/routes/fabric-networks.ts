import { z } from 'zod';
import type { Kv, KvObject } from '../../../kvstore/types.ts';
import { requestKey } from '../../common/http.ts';
import { derivedUuid } from '../../common/ids.ts';
import { retryOnConflict } from '../../common/retry.ts';
import type { ServiceContext } from '../../common/service.ts';
import { fabricsBucket, networksBucket } from '../models/buckets.ts';
import { notFound } from '../models/errors.ts';
import { listOf, paging, pickFields } from '../models/fields.ts';
import {
  checkAddresses,
  createFabricNetworkSchema,
  type NetworkRecord,
  presentNetwork,
  updateNetworkSchema,
} from '../models/network.ts';
import { createNetwork, deleteNetwork, readNetwork } from '../models/network-store.ts';
import type { FabricRecord } from '../models/vlan.ts';
import { checkIfMatch, sendEtag } from './etag.ts';
import { fabricName, updatedNetwork } from './networks.ts';
import { readVlan, vlanParams } from './vlans.ts';

const params = vlanParams.extend({ uuid: z.uuid() });
/** Triton's defaults: the NIC tag that overlays ride on, and the MTU that leaves room for VXLAN's header. */
const overlayTag = 'sdc_overlay';
const overlayMtu = 1400;

/** The networks of an owner's fabric: overlays, each an owner's alone. */
export function fabricNetworkRoutes({ app, kv }: ServiceContext): void {
  const path = '/fabrics/:owner/vlans/:vlan/networks';
  const listSchema = z.strictObject({ ...paging, fields: listOf(z.string()).optional() });

  app.get(path, { schema: { params: vlanParams, querystring: listSchema } }, async (request) => {
    const { owner, vlan } = request.params;
    const { limit, offset, fields } = request.query;
    await readVlan(kv, owner, vlan);
    const filter = `(&(owner_uuid=${owner})(vlan_id=${vlan})(fabric=true))`;
    const found = await kv.find<NetworkRecord>(networksBucket.name, filter, {
      limit,
      offset,
      sort: { attribute: 'name_str', order: 'ASC' },
    });
    return found.objects.map((network) => pickFields(presentNetwork(network.value), fields));
  });

  app.post(path, { schema: { params: vlanParams, body: createFabricNetworkSchema } }, (request, reply) =>
    retryOnConflict(`fabric of ${request.params.owner}`, async () => {
      const { owner, vlan } = request.params;
      await readVlan(kv, owner, vlan);
      const fabric = await kv.get<FabricRecord>(fabricsBucket.name, owner);
      const record = recordOf(request.body, owner, vlan, fabric.value.vnet_id, requestKey(request));
      // The owner's networks are made one at a time, so that no two overlap.
      const turn = { ...fabric.value, changes: fabric.value.changes + 1 };
      const network = await createNetwork(kv, record, [
        { operation: 'put', bucket: fabricsBucket.name, key: owner, value: turn, etag: fabric._etag },
      ]);
      sendEtag(reply, network._etag);
      return pickFields(presentNetwork(network.value), request.body.fields);
    }),
  );

  app.get(`${path}/:uuid`, { schema: { params } }, async (request, reply) => {
    const network = await readFabricNetwork(kv, request.params);
    sendEtag(reply, network._etag);
    return presentNetwork(network.value);
  });

  app.put(`${path}/:uuid`, { schema: { params, body: updateNetworkSchema } }, (request, reply) =>
    retryOnConflict(`network ${request.params.uuid}`, async () => {
      const network = await readFabricNetwork(kv, request.params);
      checkIfMatch(request, network._etag);
      const next = updatedNetwork(network.value, request.body);
      sendEtag(reply, (await kv.put(networksBucket.name, network.key, next, { etag: network._etag })).etag);
      return pickFields(presentNetwork(next), request.body.fields);
    }),
  );

  app.delete(`${path}/:uuid`, { schema: { params } }, async (request, reply) => {
    const network = await readFabricNetwork(kv, request.params);
    checkIfMatch(request, network._etag);
    await deleteNetwork(kv, network);
    return reply.code(204).send();
  });
}

async function readFabricNetwork(
  kv: Kv,
  { owner, vlan, uuid }: z.output<typeof params>,
): Promise<KvObject<NetworkRecord>> {
  const network = await readNetwork(kv, uuid);
  if (network.value.owner_uuid !== owner || network.value.vlan_id !== vlan) throw notFound(`network ${uuid}`);
  return network;
}

function recordOf(
  body: z.output<typeof createFabricNetworkSchema>,
  owner: string,
  vlan: number,
  vnet: number,
  key: string,
): NetworkRecord {
  const subnet = checkAddresses(body);
  return {
    uuid: body.uuid ?? derivedUuid('napi network', key),
    name: body.name,
    name_str: fabricName({ owner_uuid: owner, vlan_id: vlan }, body.name),
    fabric: true,
    vnet_id: vnet,
    owner_uuid: owner,
    owner_uuids_arr: [owner],
    nic_tag: overlayTag,
    vlan_id: vlan,
    mtu: body.mtu ?? overlayMtu,
    subnet: body.subnet,
    subnet_type: subnet.family,
    provision_start_ip_addr: body.provision_start_ip,
    provision_end_ip_addr: body.provision_end_ip,
    resolver_addrs: body.resolvers ?? [],
    internet_nat: body.internet_nat,
    ...(body.gateway === undefined ? {} : { gateway_addr: body.gateway, gateway_provisioned: false }),
    ...(body.routes === undefined ? {} : { routes: body.routes }),
    ...(body.description === undefined ? {} : { description: body.description }),
    request_key: key,
    v: 4,
  };
}
