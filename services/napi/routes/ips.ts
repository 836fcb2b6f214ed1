import { z } from 'zod';
import { retryOnConflict } from '../../common/retry.ts';
import type { ServiceContext } from '../../common/service.ts';
import { contains, parseSubnet } from '../models/address.ts';
import { ipsBucket, networksBucket } from '../models/buckets.ts';
import { invalid, notFound } from '../models/errors.ts';
import { address, flag, paging } from '../models/fields.ts';
import { type IpRecord, presentIp, released } from '../models/ip.ts';
import { checkOwner, type NetworkRecord } from '../models/network.ts';
import { readNetwork } from '../models/network-store.ts';
import { checkIfMatch, sendEtag } from './etag.ts';
import { networkParams } from './networks.ts';

const ipParams = networkParams.extend({ ip: address });
const kind = z.string().regex(/^\w{1,64}$/);
const listSchema = z.strictObject({
  ...paging,
  belongs_to_type: kind.optional(),
  belongs_to_uuid: z.uuid().optional(),
  owner_uuid: z.uuid().optional(),
});
const updateSchema = z.strictObject({
  owner_uuid: z.uuid().optional(),
  belongs_to_uuid: z.uuid().optional(),
  belongs_to_type: kind.optional(),
  reserved: flag.optional(),
  free: flag.optional(),
  unassign: flag.optional(),
  check_owner: flag.optional(),
});

/** The addresses of a network, and the search for an address in all of them. */
export function ipRoutes({ app, kv }: ServiceContext): void {
  app.get(
    '/networks/:uuid/ips',
    { schema: { params: networkParams, querystring: listSchema } },
    async (request) => {
      const network = await readNetwork(kv, request.params.uuid);
      const { limit, offset, ...wanted } = request.query;
      const terms = Object.entries(wanted).filter(([, value]) => value !== undefined);
      const filter = `(&(ipaddr=*)${terms.map(([name, value]) => `(${name}=${value})`).join('')})`;
      const found = await kv.find<IpRecord>(ipsBucket(network.key).name, filter, {
        limit,
        offset,
        sort: { attribute: 'ipaddr', order: 'ASC' },
      });
      return found.objects.map((ip) => presentIp(network.key, ip.key, ip.value));
    },
  );

  app.get('/networks/:uuid/ips/:ip', { schema: { params: ipParams } }, async (request, reply) => {
    const network = await readNetwork(kv, request.params.uuid);
    const ip = await kv.tryGet<IpRecord>(
      ipsBucket(network.key).name,
      insideOf(network.value, request.params.ip),
    );
    if (ip !== undefined) sendEtag(reply, ip._etag);
    return presentIp(network.key, request.params.ip, ip?.value);
  });

  app.put('/networks/:uuid/ips/:ip', { schema: { params: ipParams, body: updateSchema } }, (request, reply) =>
    retryOnConflict(`ip ${request.params.ip}`, async () => {
      const network = await readNetwork(kv, request.params.uuid);
      const bucket = ipsBucket(network.key).name;
      const present = await kv.tryGet<IpRecord>(bucket, insideOf(network.value, request.params.ip));
      if (present !== undefined) checkIfMatch(request, present._etag);
      const next = updated(present?.value, request.params.ip, request.body);
      if (next.owner_uuid !== undefined && request.body.check_owner !== false)
        checkOwner(network.value, next.owner_uuid);
      sendEtag(reply, (await kv.put(bucket, next.ipaddr, next, { etag: present?._etag ?? null })).etag);
      return presentIp(network.key, next.ipaddr, next);
    }),
  );

  const searchSchema = z.strictObject({ ip: address, fabric: flag.optional() });
  app.get('/search/ips', { schema: { querystring: searchSchema } }, async (request) => {
    const { ip, fabric } = request.query;
    const among = fabric === undefined ? '' : `(fabric=${fabric})`;
    const networks = await kv.find<NetworkRecord>(networksBucket.name, `(&(uuid=*)${among})`, {
      noLimit: true,
    });
    const holding = networks.objects.filter((network) => contains(parseSubnet(network.value.subnet), ip));
    if (holding.length === 0) throw notFound(`Network for ${ip}`);
    return Promise.all(
      holding.map(async (network) => {
        const found = await kv.tryGet<IpRecord>(ipsBucket(network.key).name, ip);
        return presentIp(network.key, ip, found?.value);
      }),
    );
  });
}

/** @throws ResourceNotFound where the network does not hold the address */
function insideOf(network: NetworkRecord, ip: string): string {
  if (!contains(parseSubnet(network.subnet), ip)) throw notFound(`IP ${ip} in network ${network.uuid}`);
  return ip;
}

/** @throws InvalidParameters */
function updated(present: IpRecord | undefined, ip: string, body: z.output<typeof updateSchema>): IpRecord {
  const before: IpRecord = present ?? { ipaddr: ip, reserved: false, v: 2 };
  if (body.free === true) return { ipaddr: before.ipaddr, reserved: false, v: 2 };
  if (body.unassign === true) return released({ ...before, reserved: body.reserved ?? before.reserved });
  const next: IpRecord = {
    ...before,
    ...(body.owner_uuid === undefined ? {} : { owner_uuid: body.owner_uuid }),
    ...(body.belongs_to_uuid === undefined ? {} : { belongs_to_uuid: body.belongs_to_uuid }),
    ...(body.belongs_to_type === undefined ? {} : { belongs_to_type: body.belongs_to_type }),
    ...(body.reserved === undefined ? {} : { reserved: body.reserved }),
  };
  if ((next.belongs_to_uuid === undefined) !== (next.belongs_to_type === undefined)) {
    const missing = next.belongs_to_uuid === undefined ? 'belongs_to_uuid' : 'belongs_to_type';
    throw invalid(missing, 'belongs_to_uuid and belongs_to_type go together');
  }
  return next;
}
