import { isIP } from 'node:net';
import { z } from 'zod';
import { flag, paging, text, uuid } from '../../common/fields.ts';
import { oneOf } from '../../common/filter.ts';
import { retryOnConflict } from '../../common/retry.ts';
import type { ServiceContext } from '../../common/service.ts';
import { canonicalAddress, contains, familyOf, parseSubnet } from '../models/address.ts';
import { ipsBucket, networksBucket } from '../models/buckets.ts';
import { invalidField, missingField, notFound, refused } from '../models/errors.ts';
import { address } from '../models/fields.ts';
import { type IpRecord, presentIp, unassigned } from '../models/ip.ts';
import { checkOwner, type NetworkRecord } from '../models/network.ts';
import { readNetwork } from '../models/network-store.ts';
import { checkIfMatch, sendEtag } from './etag.ts';

const networkParams = z.object({ network_uuid: z.string() });
const ipParams = networkParams.extend({ ip: z.string() });
const filters = {
  belongs_to_type: text.optional(),
  belongs_to_uuid: uuid.optional(),
  owner_uuid: uuid.optional(),
};
const listSchema = z.strictObject({ ...paging, ...filters });
const updateSchema = z.strictObject({
  owner_uuid: uuid.optional(),
  belongs_to_uuid: uuid.optional(),
  belongs_to_type: text.optional(),
  reserved: flag.optional(),
  free: flag.optional(),
  unassign: flag.optional(),
  check_owner: flag.optional(),
});

/** The addresses of a network, and the search for an address in all of them. */
export function ipRoutes({ app, kv }: ServiceContext): void {
  const path = '/networks/:network_uuid/ips';

  app.get(path, { schema: { params: networkParams, querystring: listSchema } }, async (request) => {
    const network = await readNetwork(kv, request.params.network_uuid);
    const { limit, offset, ...wanted } = request.query;
    const terms = Object.entries(wanted).flatMap(([name, value]) =>
      value === undefined ? [] : [oneOf(name, [value])],
    );
    const filter = `(&(ipaddr=*)${terms.join('')})`;
    const found = await kv.find<IpRecord>(ipsBucket(network.key).name, filter, {
      limit,
      offset,
      sort: { attribute: 'ipaddr', order: 'ASC' },
    });
    return found.objects.map((ip) => presentIp(network.key, ip.key, ip.value));
  });

  app.get(`${path}/:ip`, { schema: { params: ipParams } }, async (request, reply) => {
    const network = await readNetwork(kv, request.params.network_uuid);
    const ip = insideOf(network.value, request.params.ip);
    const found = await kv.tryGet<IpRecord>(ipsBucket(network.key).name, ip);
    checkIfMatch(request, found?._etag);
    if (found !== undefined) sendEtag(reply, found._etag);
    return presentIp(network.key, ip, found?.value);
  });

  app.put(`${path}/:ip`, { schema: { params: ipParams, body: updateSchema } }, (request, reply) =>
    retryOnConflict(`ip ${request.params.ip}`, async () => {
      const network = await readNetwork(kv, request.params.network_uuid);
      const ip = insideOf(network.value, request.params.ip);
      const bucket = ipsBucket(network.key).name;
      const present = await kv.tryGet<IpRecord>(bucket, ip);
      checkIfMatch(request, present?._etag);
      const next = updated(present?.value ?? { ipaddr: ip, reserved: false, v: 2 }, request.body);
      if (request.body.owner_uuid !== undefined && request.body.check_owner !== false)
        checkOwner(network.value, request.body.owner_uuid);
      sendEtag(reply, (await kv.put(bucket, ip, next, { etag: present?._etag ?? null })).etag);
      return presentIp(network.key, ip, next);
    }),
  );

  const searchSchema = z.strictObject({ ip: address, fabric: flag.optional(), ...filters });
  app.get('/search/ips', { schema: { querystring: searchSchema } }, async (request) => {
    const { ip, fabric, ...wanted } = request.query;
    const among = fabric === undefined ? '' : `(fabric=${fabric})`;
    const networks = await kv.find<NetworkRecord>(networksBucket.name, `(&(uuid=*)${among})`, {
      noLimit: true,
    });
    const holding = networks.objects.filter((network) => contains(parseSubnet(network.value.subnet), ip));
    const found = await Promise.all(
      holding.map(async (network) => {
        const record = await kv.tryGet<IpRecord>(ipsBucket(network.key).name, ip);
        return presentIp(network.key, ip, record?.value);
      }),
    );
    const matching = found.filter((each) =>
      Object.entries(wanted).every(([name, value]) => value === undefined || each[name] === value),
    );
    if (matching.length === 0) throw notFound('No networks found matching search criteria');
    return matching;
  });
}

/** @throws ResourceNotFound where the network does not hold the address */
function insideOf({ subnet }: NetworkRecord, given: string): string {
  if (isIP(given) === 0) throw notFound('Invalid IP address');
  const parsed = parseSubnet(subnet);
  if (familyOf(given) !== parsed.family) throw notFound('IP and subnet are of different address families');
  if (!contains(parsed, given)) throw notFound('IP is not in subnet');
  return canonicalAddress(given);
}

/** @throws InvalidParameters */
function updated(before: IpRecord, body: z.output<typeof updateSchema>): IpRecord {
  if (body.free === true && body.unassign === true)
    throw refused(invalidField('unassign', 'free and unassign cannot both be set to "true"'));
  if (body.free === true) return { ipaddr: before.ipaddr, reserved: false, v: 2 };
  if (body.unassign === true) return unassigned(before);
  const next: IpRecord = {
    ...before,
    ...(body.owner_uuid === undefined ? {} : { owner_uuid: body.owner_uuid }),
    ...(body.belongs_to_uuid === undefined ? {} : { belongs_to_uuid: body.belongs_to_uuid }),
    ...(body.belongs_to_type === undefined ? {} : { belongs_to_type: body.belongs_to_type }),
    ...(body.reserved === undefined ? {} : { reserved: body.reserved }),
  };
  if (body.belongs_to_uuid === undefined && body.belongs_to_type === undefined) return next;
  const missing = (['belongs_to_type', 'belongs_to_uuid', 'owner_uuid'] as const).filter(
    (name) => next[name] === undefined,
  );
  if (missing.length > 0) throw refused(...missing.map((name) => missingField(name)));
  return next;
}
