import type { FastifyRequest } from 'fastify';
import { z } from 'zod';
import { flag, paging, text, textList, uuidList } from '../../common/fields.ts';
import { oneOf } from '../../common/filter.ts';
import { requestKey } from '../../common/http.ts';
import type { ServiceContext } from '../../common/service.ts';
import { type Made, type NicChange, type Nics, networksOf } from '../allocation/nics.ts';
import { nicsBucket } from '../models/buckets.ts';
import { invalidField, refused } from '../models/errors.ts';
import { mac } from '../models/fields.ts';
import type { NetworkRecord } from '../models/network.ts';
import { allowances, type NicRecord, presentNic } from '../models/nic.ts';
import {
  checkPlaced,
  createNicSchema,
  givenFields,
  type NicParams,
  networkOf,
  placeOf,
  provisionParams,
  updateNicSchema,
} from '../models/nic-params.ts';
import { checkIfMatch, sendEtag } from './etag.ts';

const listSchema = z.strictObject({
  ...paging,
  owner_uuid: uuidList.optional(),
  belongs_to_uuid: uuidList.optional(),
  belongs_to_type: textList.optional(),
  cn_uuid: uuidList.optional(),
  network_uuid: uuidList.optional(),
  nic_tag: textList.optional(),
  nic_tags_provided: textList.optional(),
  state: text.optional(),
  underlay: flag.optional(),
  ...Object.fromEntries(allowances.map((name) => [name, flag.optional()])),
});
const macParams = z.object({ mac });

/** NICs: with a network, NAPI chooses their address. */
export function nicRoutes({ app, kv }: ServiceContext, nics: Nics): void {
  const present = async ({ nic }: Pick<Made, 'nic'>) =>
    presentNic(nic, (await networksOf(kv, [nic])).get(nic.network_uuid ?? ''));

  const create = async (request: FastifyRequest, params: z.output<typeof createNicSchema>): Promise<Made> => {
    const network = await networkOf(kv, params);
    const nic = {
      owner_uuid: params.owner_uuid,
      belongs_to_uuid: params.belongs_to_uuid,
      belongs_to_type: params.belongs_to_type,
      primary_flag: false,
      state: 'provisioning' as const,
      ...givenFields(params),
      ...placeOf(params, network),
      request_key: requestKey(request),
    };
    checkPlaced(nic, network);
    const { ip, reserved } = params;
    const place = network === undefined ? undefined : { network, ip, reserved };
    return nics.create({ nic, mac: params.mac, place });
  };

  /** A network that was deleted meanwhile takes the NIC with it. */
  const presentNew = async ({ nic }: Made): Promise<Record<string, unknown>> => {
    const network = (await networksOf(kv, [nic])).get(nic.network_uuid ?? '');
    if (network !== undefined || nic.network_uuid === undefined) return presentNic(nic, network);
    await nics.delete(nic.mac, () => {});
    throw refused(invalidField('network_uuid', 'network does not exist'));
  };

  app.get('/nics', { schema: { querystring: listSchema } }, async (request) => {
    const { limit, offset, ...wanted } = request.query;
    const found = await kv.find<NicRecord>(nicsBucket.name, filterOf(wanted), {
      limit,
      offset,
      sort: { attribute: 'mac', order: 'ASC' },
    });
    const all = found.objects.map((object) => object.value);
    const networks = await networksOf(kv, all);
    return all.map((nic) => presentNic(nic, networks.get(nic.network_uuid ?? '')));
  });

  app.post(
    '/networks/:network_uuid/nics',
    { schema: { params: provisionParams, body: createNicSchema } },
    async (request, reply) => {
      const made = await create(request, { ...request.body, ...request.params });
      sendEtag(reply, made.etag);
      return presentNew(made);
    },
  );

  app.post('/nics', { schema: { body: createNicSchema } }, async (request, reply) => {
    const made = await create(request, request.body);
    sendEtag(reply, made.etag);
    return presentNew(made);
  });

  app.get('/nics/:mac', { schema: { params: macParams } }, async (request, reply) => {
    const nic = await nics.read(request.params.mac);
    checkIfMatch(request, nic._etag);
    sendEtag(reply, nic._etag);
    return present({ nic: nic.value });
  });

  app.put('/nics/:mac', { schema: { params: macParams, body: updateNicSchema } }, async (request, reply) => {
    const made = await nics.update(request.params.mac, async (nic) => {
      checkIfMatch(request, nic._etag);
      const on = (await networksOf(kv, [nic.value])).get(nic.value.network_uuid ?? '');
      return changeOf(nic.value, request.body, on, await networkOf(kv, request.body, on));
    });
    sendEtag(reply, made.etag);
    return present(made);
  });

  app.delete('/nics/:mac', { schema: { params: macParams } }, async (request, reply) => {
    await nics.delete(request.params.mac, (nic) => checkIfMatch(request, nic._etag));
    return reply.code(204).send();
  });
}

/** What parameters make of a NIC that is on one network, or none, and is to be on another, or the same. */
function changeOf(
  before: NicRecord,
  params: NicParams,
  on: NetworkRecord | undefined,
  network: NetworkRecord | undefined,
): NicChange {
  const { vnet_id, ...rest } = before;
  const stays = network === undefined || network.uuid === on?.uuid;
  const nic: NicRecord = {
    ...(stays ? before : rest),
    ...givenFields(params),
    ...placeOf(params, network),
  };
  checkPlaced(nic, network);
  if (network === undefined) return { nic, place: undefined };
  const ip = params.ip ?? (stays ? before.ipaddr : undefined);
  return { nic, place: { network, ip, reserved: params.reserved } };
}

function filterOf(query: Record<string, unknown>): string {
  const terms = Object.entries(query).flatMap(([name, value]) => {
    if (value === undefined) return [];
    const index = name === 'nic_tags_provided' ? 'nic_tags_provided_arr' : name;
    return [oneOf(index, (Array.isArray(value) ? value : [value]) as (string | boolean)[])];
  });
  return `(&(mac=*)${terms.join('')})`;
}
