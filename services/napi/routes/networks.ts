import { z } from 'zod';
import {
  choice,
  fieldList,
  flag,
  paging,
  pickFields,
  textList,
  uuid,
  uuidOrPrefix,
} from '../../common/fields.ts';
import { either, escapeValue, oneOf } from '../../common/filter.ts';
import { requestKey } from '../../common/http.ts';
import { derivedUuid } from '../../common/ids.ts';
import { retryOnConflict } from '../../common/retry.ts';
import type { ServiceContext } from '../../common/service.ts';
import { networksBucket } from '../models/buckets.ts';
import { vlanId } from '../models/fields.ts';
import { isOwner, type NetworkRecord, networkFields, presentNetwork, uniqueName } from '../models/network.ts';
import { checkNewNetwork, createNetworkSchema, updateNetworkSchema } from '../models/network-params.ts';
import { createNetwork, deleteNetwork, readNetwork, readNetworkOf } from '../models/network-store.ts';
import { updateNetwork } from '../models/network-update.ts';
import { checkMtu, checkNicTag, defaultMtu } from '../models/nic-tags.ts';
import { checkIfMatch, sendEtag } from './etag.ts';

const params = z.object({ uuid: z.string() });
const fields = fieldList(networkFields).optional();
const listSchema = z.strictObject({
  ...paging,
  fabric: flag.optional(),
  family: choice(['ipv4', 'ipv6']).optional(),
  name: textList.optional(),
  nic_tag: textList.optional(),
  owner_uuid: uuid.optional(),
  provisionable_by: uuid.optional(),
  uuid: uuidOrPrefix.optional(),
  vlan_id: vlanId.optional(),
  fields,
});
const getSchema = z.strictObject({ provisionable_by: uuid.optional(), owner_uuid: uuid.optional(), fields });

/** Logical networks, on fabrics or not. */
export function networkRoutes({ app, kv }: ServiceContext): void {
  app.get('/networks', { schema: { querystring: listSchema } }, async (request) => {
    const { limit, offset, fields: wanted, ...query } = request.query;
    const found = await kv.find<NetworkRecord>(networksBucket.name, filterOf(query), {
      limit,
      offset,
      sort: { attribute: 'name_str', order: 'ASC' },
    });
    return found.objects.map((network) => pickFields(presentNetwork(network.value), wanted));
  });

  app.post('/networks', { schema: { body: createNetworkSchema } }, async (request, reply) => {
    const { body } = request;
    await checkNicTag(kv, body.nic_tag);
    const range = checkNewNetwork(body);
    const mtu = body.mtu ?? defaultMtu;
    const record: NetworkRecord = {
      uuid: body.uuid ?? derivedUuid('napi network', requestKey(request)),
      name: body.name,
      name_str: uniqueName(undefined, body.name),
      fabric: false,
      nic_tag: body.nic_tag,
      vlan_id: body.vlan_id,
      mtu,
      subnet: range.subnet,
      subnet_type: range.parsed.family,
      provision_start_ip_addr: range.provision_start_ip,
      provision_end_ip_addr: range.provision_end_ip,
      resolver_addrs: body.resolvers ?? [],
      ...(body.gateway === undefined ? {} : { gateway_addr: body.gateway }),
      ...(body.routes === undefined ? {} : { routes: body.routes }),
      ...(body.description === undefined ? {} : { description: body.description }),
      ...(body.owner_uuids === undefined || body.owner_uuids.length === 0
        ? {}
        : { owner_uuids_arr: body.owner_uuids }),
      request_key: requestKey(request),
      v: 4,
    };
    const network = await createNetwork(kv, record, () => checkMtu(kv, body.nic_tag, mtu));
    sendEtag(reply, network._etag);
    return pickFields(presentNetwork(network.value), body.fields);
  });

  app.get('/networks/:uuid', { schema: { params, querystring: getSchema } }, async (request, reply) => {
    const { owner_uuid, provisionable_by: user, fields: wanted } = request.query;
    const network = await readNetworkOf(kv, request.params.uuid, owner_uuid);
    if (user !== undefined && !isOwner(network.value, user)) {
      void reply.code(403);
      return { code: 'NotAuthorized', message: 'owner cannot provision on network' };
    }
    checkIfMatch(request, network._etag);
    sendEtag(reply, network._etag);
    return pickFields(presentNetwork(network.value), wanted);
  });

  app.put('/networks/:uuid', { schema: { params, body: updateNetworkSchema } }, (request, reply) =>
    retryOnConflict(`network ${request.params.uuid}`, async () => {
      const network = await readNetwork(kv, request.params.uuid);
      checkIfMatch(request, network._etag);
      const { record, etag } = await updateNetwork(kv, network, request.body);
      sendEtag(reply, etag);
      return presentNetwork(record);
    }),
  );

  app.delete('/networks/:uuid', { schema: { params } }, async (request, reply) => {
    await retryOnConflict(`network ${request.params.uuid}`, async () => {
      const network = await readNetwork(kv, request.params.uuid);
      checkIfMatch(request, network._etag);
      await deleteNetwork(kv, network);
    });
    return reply.code(204).send();
  });
}

type ListQuery = Omit<z.output<typeof listSchema>, 'limit' | 'offset' | 'fields'>;

function filterOf(query: ListQuery): string {
  const terms: string[] = [];
  if (query.fabric !== undefined) terms.push(`(fabric=${query.fabric})`);
  if (query.family !== undefined) terms.push(`(subnet_type=${query.family})`);
  if (query.vlan_id !== undefined) terms.push(`(vlan_id=${query.vlan_id})`);
  if (query.uuid !== undefined) terms.push(`(uuid=${query.uuid})`);
  if (query.nic_tag !== undefined) terms.push(oneOf('nic_tag', query.nic_tag));
  if (query.name !== undefined) terms.push(namedFilter(query.name, query));
  if (query.provisionable_by !== undefined)
    terms.push(`(|(owner_uuids_arr=${query.provisionable_by})(!(owner_uuids_arr=*)))`);
  if (query.owner_uuid !== undefined) terms.push(`(owner_uuids_arr=${query.owner_uuid})`);
  return `(&(uuid=*)${terms.join('')})`;
}

/** A fabric network is found by its name only where fabrics are asked for, or its owner is. */
function namedFilter(names: readonly string[], { fabric, provisionable_by: user }: ListQuery): string {
  const terms = names.map(escapeValue).flatMap((name) => {
    const own = user === undefined ? `(name_str=*:${name})` : `(name_str=${uniqueName(user, name)})`;
    const everyone = `(name_str=${uniqueName(undefined, name)})`;
    if (fabric === true) return [own];
    return user === undefined ? [everyone] : [everyone, own];
  });
  return either(terms);
}
