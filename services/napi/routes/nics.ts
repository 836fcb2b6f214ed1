import { z } from 'zod';
import type { Kv } from '../../../kvstore/types.ts';
import { requestKey } from '../../common/http.ts';
import type { ServiceContext } from '../../common/service.ts';
import { type Made, type Nics, type NicWish, networksOf } from '../allocation/nics.ts';
import { contains, parseSubnet } from '../models/address.ts';
import { networksBucket, nicsBucket } from '../models/buckets.ts';
import { invalid } from '../models/errors.ts';
import { flag, listOf, mac, paging, pickFields } from '../models/fields.ts';
import { checkOwner, type NetworkRecord } from '../models/network.ts';
import { readNetwork } from '../models/network-store.ts';
import {
  allowances,
  createNicSchema,
  type NicRecord,
  presentNic,
  provisionNicSchema,
  updateNicSchema,
} from '../models/nic.ts';
import { checkIfMatch, sendEtag } from './etag.ts';
import { networkParams } from './networks.ts';

const uuids = listOf(z.uuid()).optional();
const words = listOf(z.string().regex(/^[\w/.-]+$/)).optional();
const listSchema = z.strictObject({
  ...paging,
  owner_uuid: uuids,
  belongs_to_uuid: uuids,
  belongs_to_type: words,
  cn_uuid: uuids,
  network_uuid: uuids,
  nic_tag: words,
  nic_tags_provided: words,
  state: words,
  underlay: flag.optional(),
  ...Object.fromEntries(allowances.map((name) => [name, flag.optional()])),
  fields: words,
});
const macParams = z.object({ mac });

/** NICs: with a network, NAPI chooses their address. */
export function nicRoutes({ app, kv }: ServiceContext, nics: Nics): void {
  const present = async ({ nic }: Made) =>
    presentNic(nic, (await networksOf(kv, [nic])).get(nic.network_uuid ?? ''));

  app.get('/nics', { schema: { querystring: listSchema } }, async (request) => {
    const { limit, offset, fields, ...wanted } = request.query;
    const found = await kv.find<NicRecord>(nicsBucket.name, filterOf(wanted), {
      limit,
      offset,
      sort: { attribute: 'mac', order: 'ASC' },
    });
    const all = found.objects.map((object) => object.value);
    const networks = await networksOf(kv, all);
    return all.map((nic) => pickFields(presentNic(nic, networks.get(nic.network_uuid ?? '')), fields));
  });

  app.post(
    '/networks/:uuid/nics',
    { schema: { params: networkParams, body: provisionNicSchema } },
    async (request, reply) => {
      const network = (await readNetwork(kv, request.params.uuid)).value;
      const made = await nics.create(wishOf(request.body, network, requestKey(request)));
      sendEtag(reply, made.etag);
      return present(made);
    },
  );

  app.post('/nics', { schema: { body: createNicSchema } }, async (request, reply) => {
    const { network_uuid, nic_tag, vlan_id, ...body } = request.body;
    const network = await networkFor(kv, { network_uuid, nic_tag, vlan_id, ip: body.ip });
    const made = await nics.create(wishOf({ ...body, nic_tag }, network, requestKey(request)));
    sendEtag(reply, made.etag);
    return present(made);
  });

  app.get('/nics/:mac', { schema: { params: macParams } }, async (request, reply) => {
    const nic = await nics.read(request.params.mac);
    sendEtag(reply, nic._etag);
    return present({ nic: nic.value, etag: nic._etag });
  });

  app.put('/nics/:mac', { schema: { params: macParams, body: updateNicSchema } }, async (request, reply) => {
    const { network_uuid, nic_tag, vlan_id, ...body } = request.body;
    const made = await nics.update(request.params.mac, async (nic) => {
      checkIfMatch(request, nic._etag);
      const named =
        network_uuid ?? (body.ip === undefined || nic_tag !== undefined ? undefined : nic.value.network_uuid);
      const given = await networkFor(kv, { network_uuid: named, nic_tag, vlan_id, ip: body.ip });
      const network = given ?? (await networksOf(kv, [nic.value])).get(nic.value.network_uuid ?? '');
      const owner = body.owner_uuid ?? nic.value.owner_uuid;
      if (given !== undefined && body.check_owner !== false) checkOwner(given, owner);
      return {
        nic: { ...nic.value, ...recordFields(body), ...placeOf(given, body.ip ?? nic.value.ipaddr) },
        network,
      };
    });
    sendEtag(reply, made.etag);
    return present(made);
  });

  app.delete('/nics/:mac', { schema: { params: macParams } }, async (request, reply) => {
    await nics.delete(request.params.mac, (nic) => checkIfMatch(request, nic._etag));
    return reply.code(204).send();
  });
}

type Given = {
  readonly [F in keyof z.output<typeof provisionNicSchema>]?:
    | z.output<typeof provisionNicSchema>[F]
    | undefined;
} & {
  readonly nic_tag?: string | undefined;
};

function wishOf(
  body: z.output<typeof provisionNicSchema> & { readonly nic_tag?: string | undefined },
  network: NetworkRecord | undefined,
  key: string,
): NicWish {
  if (network !== undefined && body.check_owner !== false) checkOwner(network, body.owner_uuid);
  if (network?.fabric === true && body.cn_uuid === undefined)
    throw invalid('cn_uuid', 'a NIC on a fabric is on a node: missing parameter');
  if (network === undefined && body.ip !== undefined)
    throw invalid('nic_tag', 'nic_tag and vlan_id, or network_uuid, are required with ip');
  return {
    nic: {
      owner_uuid: body.owner_uuid,
      belongs_to_uuid: body.belongs_to_uuid,
      belongs_to_type: body.belongs_to_type,
      primary_flag: false,
      state: 'running',
      ...recordFields(body),
      ...placeOf(network, undefined),
      request_key: key,
    },
    mac: body.mac,
    network,
    ip: body.ip,
    reserved: body.reserved ?? false,
  };
}

/** The record's fields that parameters give. */
function recordFields(body: Given): Partial<NicRecord> {
  const given: Record<string, unknown> = {};
  const plain = [
    'owner_uuid',
    'belongs_to_uuid',
    'belongs_to_type',
    'cn_uuid',
    'state',
    'model',
    'underlay',
    'nic_tag',
    ...allowances,
  ] as const;
  for (const name of plain) if (body[name] !== undefined) given[name] = body[name];
  if (body.primary !== undefined) given.primary_flag = body.primary;
  if (body.nic_tags_provided !== undefined) given.nic_tags_provided_arr = body.nic_tags_provided;
  return given as Partial<NicRecord>;
}

/** What a NIC has from being on a network. A fabric's NIC tag names its vnet, as in Triton. */
function placeOf(network: NetworkRecord | undefined, ip: string | undefined): Partial<NicRecord> {
  if (network === undefined) return {};
  return {
    network_uuid: network.uuid,
    nic_tag: network.fabric ? `${network.nic_tag}/${network.vnet_id}` : network.nic_tag,
    vlan_id: network.vlan_id,
    ...(network.vnet_id === undefined ? {} : { vnet_id: network.vnet_id }),
    ...(ip === undefined ? {} : { ipaddr: ip }),
  };
}

/** The network that a NIC names: by uuid, or by NIC tag, VLAN and an address in it. @throws InvalidParameters */
async function networkFor(
  kv: Kv,
  given: {
    network_uuid?: string | undefined;
    nic_tag?: string | undefined;
    vlan_id?: number | undefined;
    ip?: string | undefined;
  },
): Promise<NetworkRecord | undefined> {
  const { network_uuid, nic_tag, vlan_id, ip } = given;
  if (network_uuid !== undefined) return (await readNetwork(kv, network_uuid)).value;
  if (ip === undefined || nic_tag === undefined || vlan_id === undefined) return undefined;
  const filter = `(&(nic_tag=${nic_tag.replace(/[^\w/.-]/g, '')})(vlan_id=${vlan_id}))`;
  const found = await kv.find<NetworkRecord>(networksBucket.name, filter, { noLimit: true });
  const network = found.objects.find((object) => contains(parseSubnet(object.value.subnet), ip))?.value;
  if (network === undefined)
    throw invalid(
      'ip',
      `no networks found matching parameters: nic_tag ${nic_tag}, vlan_id ${vlan_id}, ip ${ip}`,
    );
  return network;
}

function filterOf(query: Record<string, unknown>): string {
  const terms: string[] = [];
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined) continue;
    const index = name === 'nic_tags_provided' ? 'nic_tags_provided_arr' : name;
    const values = Array.isArray(value) ? value : [value];
    terms.push(`(|${values.map((v) => `(${index}=${v})`).join('')})`);
  }
  return `(&(mac=*)${terms.join('')})`;
}
