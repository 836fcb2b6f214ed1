import { z } from 'zod';
import type { Kv } from '../../../kvstore/types.ts';
import { choice, flag, text, uuid } from '../../common/fields.ts';
import { contains, parseSubnet } from './address.ts';
import { networksBucket } from './buckets.ts';
import { invalidField, missingField, refused } from './errors.ts';
import { ipv4, mac, vlanId } from './fields.ts';
import { checkOwner, type NetworkRecord } from './network.ts';
import { tryNetwork } from './network-store.ts';
import { allowances, belongsToTypes, type NicRecord, nicStates } from './nic.ts';
import { checkNicTag, checkNicTags } from './nic-tags.ts';

/** What clients say of a NIC, and what that makes of it. */

/** The name of a NIC tag, or of one of its vnets: `<tag>/<vnet id>`. */
const nicTag = text.transform((given, context) => {
  const [name = '', vnet, ...more] = given.split('/');
  if (more.length > 0) {
    context.addIssue('only one slash is allowed after the tag name');
    return z.NEVER;
  }
  if (vnet === undefined) return { name };
  const vnetId = /^\d+$/.test(vnet) ? Number(vnet) : Number.NaN;
  if (!(vnetId < 2 ** 24)) {
    context.addIssue('VNET ID must be a number between 0 and 16777215');
    return z.NEVER;
  }
  return { name, vnetId };
});

const tagNames = z.union(
  [z.string().transform((s) => s.split(',').filter((part) => part !== '')), z.array(z.string())],
  'must be an array',
);

const network = z.union([uuid, z.literal('admin')], 'invalid UUID');

const allowanceFields = Object.fromEntries(allowances.map((name) => [name, flag.optional()])) as Record<
  (typeof allowances)[number],
  z.ZodOptional<typeof flag>
>;

const optional = {
  check_owner: flag.optional(),
  cn_uuid: uuid.optional(),
  ip: ipv4.optional(),
  model: text.optional(),
  network_uuid: network.optional(),
  nic_tag: nicTag.optional(),
  nic_tags_available: tagNames.optional(),
  nic_tags_provided: tagNames.optional(),
  primary: flag.optional(),
  reserved: flag.optional(),
  state: choice(nicStates).optional(),
  underlay: flag.optional(),
  vlan_id: vlanId.optional(),
  ...allowanceFields,
};
const required = {
  belongs_to_type: choice(belongsToTypes),
  belongs_to_uuid: uuid,
  owner_uuid: uuid,
};

/** POST /nics, and POST /networks/:network_uuid/nics */
export const createNicSchema = z.strictObject({ ...required, ...optional, mac: mac.optional() });
/** PUT /nics/:mac */
export const updateNicSchema = z.strictObject({ ...required, ...optional, mac: mac.optional() }).partial();
export const provisionParams = z.object({ network_uuid: network });

export type NicParams = z.output<typeof updateNicSchema>;

/** The fields of a NIC's record that parameters give, but for where it is. */
export function givenFields(params: NicParams): Partial<NicRecord> {
  const given: Record<string, unknown> = {};
  for (const name of [
    'owner_uuid',
    'belongs_to_uuid',
    'belongs_to_type',
    'cn_uuid',
    'state',
    'model',
    'underlay',
    ...allowances,
  ] as const)
    if (params[name] !== undefined) given[name] = params[name];
  if (params.primary !== undefined) given.primary_flag = params.primary;
  if (params.nic_tags_provided !== undefined) given.nic_tags_provided_arr = params.nic_tags_provided;
  return given as Partial<NicRecord>;
}

/** Where a NIC is put: what it has from its network, or the NIC tag and VLAN that it names. */
export function placeOf(params: NicParams, on: NetworkRecord | undefined): Partial<NicRecord> {
  if (on === undefined) {
    return {
      ...(params.nic_tag === undefined ? {} : { nic_tag: params.nic_tag.name }),
      ...(params.vlan_id === undefined ? {} : { vlan_id: params.vlan_id }),
    };
  }
  return {
    network_uuid: on.uuid,
    nic_tag: on.nic_tag,
    vlan_id: on.vlan_id,
    ...(on.vnet_id === undefined ? {} : { vnet_id: on.vnet_id }),
  };
}

/**
 * The network that parameters name: by uuid, or by NIC tag, VLAN and an address in it; else `present`, the one that the
 * NIC is on. Everything that does not fit it is refused.
 * @throws InvalidParameters
 */
export async function networkOf(
  kv: Kv,
  params: NicParams,
  present?: NetworkRecord,
): Promise<NetworkRecord | undefined> {
  if (params.nic_tag !== undefined) await checkNicTag(kv, params.nic_tag.name);
  for (const field of ['nic_tags_available', 'nic_tags_provided'] as const)
    if (params[field] !== undefined) await checkNicTags(kv, field, params[field]);
  const named = params.network_uuid === undefined ? present : await namedNetwork(kv, params.network_uuid);
  const found = named ?? (params.ip === undefined ? undefined : await networkAround(kv, params, params.ip));
  if (found === undefined) return undefined;
  checkFits(params, found, named === undefined ? 'ip' : 'network_uuid');
  if (params.ip !== undefined && !contains(parseSubnet(found.subnet), params.ip)) {
    const message = `IP address ${params.ip} is outside the subnet for given network ${found.uuid}`;
    throw refused(invalidField('ip', message));
  }
  return found;
}

async function namedNetwork(kv: Kv, uuid: string): Promise<NetworkRecord> {
  const found = (await tryNetwork(kv, uuid))?.value;
  if (found === undefined) throw refused(invalidField('network_uuid', 'network does not exist'));
  if (found.subnet_type !== 'ipv4') {
    const message = 'The network UUID is valid, but its address family must be IPv4';
    throw refused(invalidField('network_uuid', message));
  }
  return found;
}

async function networkAround(kv: Kv, { nic_tag, vlan_id }: NicParams, ip: string): Promise<NetworkRecord> {
  if (nic_tag === undefined || vlan_id === undefined) {
    const message = 'required if IP specified but not network_uuid';
    const missing = [
      ...(nic_tag === undefined ? ['nic_tag'] : []),
      ...(vlan_id === undefined ? ['vlan_id'] : []),
    ];
    throw refused(...missing.map((field) => missingField(field, message)));
  }
  const vnet = nic_tag.vnetId === undefined ? '' : `(vnet_id=${nic_tag.vnetId})`;
  const filter = `(&(nic_tag=${nic_tag.name})(vlan_id=${vlan_id})${vnet})`;
  const candidates = await kv.find<NetworkRecord>(networksBucket.name, filter, { noLimit: true });
  const [found, ...more] = candidates.objects
    .map((object) => object.value)
    .filter((candidate) => contains(parseSubnet(candidate.subnet), ip));
  if (found === undefined) {
    const which = `nic_tag ("${nic_tag.name}") and vlan_id (${vlan_id})`;
    throw refused(invalidField('ip', `No networks matching this ${which} contained the IP address ${ip}`));
  }
  if (more.length > 0) {
    const uuids = [found, ...more].map(({ uuid: id }) => id).sort();
    const which = `Multiple (overlapping) networks (${uuids.join(', ')})`;
    throw refused(
      invalidField('ip', `${which} matching this nic_tag and vlan_id contain the IP address ${ip}`),
    );
  }
  return found;
}

function checkFits(params: NicParams, on: NetworkRecord, field: string): void {
  if (params.owner_uuid !== undefined && params.check_owner !== false) checkOwner(on, params.owner_uuid);
  const { nic_tag, vlan_id } = params;
  const same = 'of all specified IPv4 and IPv6 networks must match';
  if (nic_tag !== undefined && nic_tag.name !== on.nic_tag) {
    const message = `The nic_tag ${same} (have "${nic_tag.name}" and "${on.nic_tag}")`;
    throw refused(invalidField(field, message));
  }
  if (vlan_id !== undefined && vlan_id !== on.vlan_id)
    throw refused(invalidField(field, `The vlan_id ${same} (have ${vlan_id} and ${on.vlan_id})`));
}

/** @throws InvalidParameters where what a NIC is and where it is do not go together */
export function checkPlaced(
  nic: Pick<NicRecord, 'belongs_to_type' | 'cn_uuid' | 'underlay'>,
  on: NetworkRecord | undefined,
): void {
  if (on?.fabric === true && nic.cn_uuid === undefined) throw refused(missingField('cn_uuid'));
  if (nic.underlay === true && nic.belongs_to_type !== 'server')
    throw refused(invalidField('underlay', 'Only server NICs can be underlay NICs'));
}
