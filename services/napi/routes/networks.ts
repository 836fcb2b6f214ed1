import { z } from 'zod';
import { requestKey } from '../../common/http.ts';
import { derivedUuid } from '../../common/ids.ts';
import { retryOnConflict } from '../../common/retry.ts';
import type { ServiceContext } from '../../common/service.ts';
import { networksBucket, nicTagsBucket } from '../models/buckets.ts';
import { invalid } from '../models/errors.ts';
import { flag, listOf, paging, pickFields, vlanId } from '../models/fields.ts';
import {
  adminOwner,
  checkAddresses,
  createNetworkSchema,
  type NetworkRecord,
  presentNetwork,
  updateNetworkSchema,
} from '../models/network.ts';
import { createNetwork, deleteNetwork, readNetwork } from '../models/network-store.ts';
import { checkIfMatch, sendEtag } from './etag.ts';
import type { NicTagRecord } from './nic-tags.ts';

export const networkParams = z.object({ uuid: z.union([z.uuid(), z.literal('admin')]) });
const safeName = z.string().regex(/^[^()*\\]+$/, 'may not hold ( ) * or \\');
const listSchema = z.strictObject({
  ...paging,
  fabric: flag.optional(),
  family: z.enum(['ipv4', 'ipv6']).optional(),
  name: listOf(safeName).optional(),
  nic_tag: listOf(safeName).optional(),
  owner_uuid: z.uuid().optional(),
  provisionable_by: z.uuid().optional(),
  uuid: z.uuid().optional(),
  vlan_id: vlanId.optional(),
  fields: listOf(z.string()).optional(),
});

/** Logical networks, on fabrics or not. */
export function networkRoutes({ app, kv }: ServiceContext): void {
  app.get('/networks', { schema: { querystring: listSchema } }, async (request) => {
    const { limit, offset, fields, ...wanted } = request.query;
    const found = await kv.find<NetworkRecord>(networksBucket.name, filterOf(wanted), {
      limit,
      offset,
      sort: { attribute: 'name_str', order: 'ASC' },
    });
    return found.objects.map((network) => pickFields(presentNetwork(network.value), fields));
  });

  app.post('/networks', { schema: { body: createNetworkSchema } }, async (request, reply) => {
    const { body } = request;
    const subnet = checkAddresses(body);
    const tag = await kv.tryGet<NicTagRecord>(nicTagsBucket.name, body.nic_tag);
    if (tag === undefined) throw invalid('nic_tag', 'nic tag does not exist');
    const uuid = body.uuid ?? derivedUuid('napi network', requestKey(request));
    const record: NetworkRecord = {
      uuid,
      name: body.name,
      name_str: body.name,
      fabric: false,
      nic_tag: body.nic_tag,
      vlan_id: body.vlan_id,
      mtu: body.mtu ?? tag.value.mtu,
      subnet: body.subnet,
      subnet_type: subnet.family,
      provision_start_ip_addr: body.provision_start_ip,
      provision_end_ip_addr: body.provision_end_ip,
      resolver_addrs: body.resolvers ?? [],
      ...(body.gateway === undefined ? {} : { gateway_addr: body.gateway }),
      ...(body.routes === undefined ? {} : { routes: body.routes }),
      ...(body.description === undefined ? {} : { description: body.description }),
      ...(body.owner_uuids === undefined ? {} : { owner_uuids_arr: body.owner_uuids }),
      request_key: requestKey(request),
      v: 4,
    };
    const network = await createNetwork(kv, record, []);
    sendEtag(reply, network._etag);
    return presentNetwork(network.value);
  });

  app.get(
    '/networks/:uuid',
    {
      schema: {
        params: networkParams,
        querystring: z.strictObject({ provisionable_by: z.uuid().optional() }),
      },
    },
    async (request, reply) => {
      const network = await readNetwork(kv, request.params.uuid);
      const { provisionable_by: user } = request.query;
      const owners = network.value.owner_uuids_arr;
      if (user !== undefined && owners !== undefined && !owners.includes(user) && user !== adminOwner) {
        void reply.code(403);
        return { code: 'NotAuthorized', message: 'owner cannot provision on network' };
      }
      sendEtag(reply, network._etag);
      return presentNetwork(network.value);
    },
  );

  app.put(
    '/networks/:uuid',
    { schema: { params: networkParams, body: updateNetworkSchema } },
    (request, reply) =>
      retryOnConflict(`network ${request.params.uuid}`, async () => {
        const network = await readNetwork(kv, request.params.uuid);
        checkIfMatch(request, network._etag);
        const next = updatedNetwork(network.value, request.body);
        sendEtag(reply, (await kv.put(networksBucket.name, network.key, next, { etag: network._etag })).etag);
        return presentNetwork(next);
      }),
  );

  app.delete('/networks/:uuid', { schema: { params: networkParams } }, async (request, reply) => {
    const network = await readNetwork(kv, request.params.uuid);
    checkIfMatch(request, network._etag);
    await deleteNetwork(kv, network);
    return reply.code(204).send();
  });
}

/** A network with what an update changes of it. @throws InvalidParameters */
export function updatedNetwork(
  present: NetworkRecord,
  body: z.output<typeof updateNetworkSchema>,
): NetworkRecord {
  const next: NetworkRecord = {
    ...present,
    ...(body.name === undefined
      ? {}
      : { name: body.name, name_str: present.fabric ? fabricName(present, body.name) : body.name }),
    ...(body.description === undefined ? {} : { description: body.description }),
    ...(body.gateway === undefined ? {} : { gateway_addr: body.gateway }),
    ...(body.resolvers === undefined ? {} : { resolver_addrs: body.resolvers }),
    ...(body.routes === undefined ? {} : { routes: body.routes }),
    ...(body.mtu === undefined ? {} : { mtu: body.mtu }),
    ...(body.owner_uuids === undefined || present.fabric ? {} : { owner_uuids_arr: body.owner_uuids }),
    ...(body.internet_nat === undefined ? {} : { internet_nat: body.internet_nat }),
    ...(body.provision_start_ip === undefined ? {} : { provision_start_ip_addr: body.provision_start_ip }),
    ...(body.provision_end_ip === undefined ? {} : { provision_end_ip_addr: body.provision_end_ip }),
  };
  checkAddresses({
    subnet: next.subnet,
    provision_start_ip: next.provision_start_ip_addr,
    provision_end_ip: next.provision_end_ip_addr,
    gateway: next.gateway_addr,
  });
  return next;
}

/** A fabric network's name need only be unique among those of its owner's VLAN. */
export function fabricName(
  { owner_uuid, vlan_id }: Pick<NetworkRecord, 'owner_uuid' | 'vlan_id'>,
  name: string,
): string {
  return `${owner_uuid}/${vlan_id}/${name}`;
}

type ListQuery = Omit<z.output<typeof listSchema>, 'limit' | 'offset' | 'fields'>;

function filterOf(query: ListQuery): string {
  const terms: string[] = [];
  const either = (name: string, values: readonly unknown[]) =>
    terms.push(`(|${values.map((v) => `(${name}=${v})`).join('')})`);
  if (query.fabric !== undefined) terms.push(`(fabric=${query.fabric})`);
  if (query.family !== undefined) terms.push(`(subnet_type=${query.family})`);
  if (query.vlan_id !== undefined) terms.push(`(vlan_id=${query.vlan_id})`);
  if (query.uuid !== undefined) terms.push(`(uuid=${query.uuid})`);
  if (query.nic_tag !== undefined) either('nic_tag', query.nic_tag);
  // A fabric network's stored name begins with its owner and VLAN.
  if (query.name !== undefined)
    terms.push(`(|${query.name.map((n) => `(name_str=${n})(name_str=*/${n})`).join('')})`);
  if (query.owner_uuid !== undefined) either('owner_uuids_arr', [query.owner_uuid, adminOwner]);
  if (query.provisionable_by !== undefined) {
    terms.push(`(|(owner_uuids_arr=${query.provisionable_by})(!(owner_uuids_arr=*)))`);
  }
  return `(&(uuid=*)${terms.join('')})`;
}
