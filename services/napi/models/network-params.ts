import { isIP } from 'node:net';
import { z } from 'zod';
import type { FieldError } from '../../../runtime/errors.ts';
import { choice, fieldList, flag, text, uuid, uuidList } from '../../common/fields.ts';
import {
  addressToNumber,
  broadcastOf,
  canonicalAddress,
  contains,
  type Family,
  familyOf,
  isPrivate,
  parseSubnet,
  type Subnet,
} from './address.ts';
import { invalidField, missingField, refused } from './errors.ts';
import { address, addressList, mtuFrom, subnet, vlanId } from './fields.ts';
import { networkFields } from './network.ts';

/** What clients say of a network, and the checks of it. */

/** Destinations (addresses or subnets) and the next hop to each. */
const routes = z.record(z.string(), z.unknown(), 'must be an object').transform((given, context) => {
  const parsed: Record<string, string> = {};
  const invalid: unknown[][] = [];
  for (const [to, hop] of Object.entries(given)) {
    const [destination, gateway] = [parseDestination(to), parseAddress(hop)];
    const wrong = [...(destination === undefined ? [to] : []), ...(gateway === undefined ? [hop] : [])];
    if (destination === undefined || gateway === undefined) {
      invalid.push(wrong);
    } else if (familyOf(destination.split('/')[0] ?? '') !== familyOf(gateway)) {
      const message = 'address family of route and next-hop address should match';
      context.addIssue({ code: 'custom', message, params: { invalid: [destination, gateway] } });
      return z.NEVER;
    } else {
      parsed[destination] = gateway;
    }
  }
  if (invalid.length > 0) {
    const message = invalid.length === 1 ? 'invalid route' : 'invalid routes';
    context.addIssue({ code: 'custom', message, params: { invalid: invalid.flat() } });
    return z.NEVER;
  }
  return parsed;
});

function parseAddress(given: unknown): string | undefined {
  return typeof given === 'string' && isIP(given) !== 0 ? canonicalAddress(given) : undefined;
}

function parseDestination(given: string): string | undefined {
  if (!given.includes('/')) return parseAddress(given);
  const parsed = subnet.safeParse(given);
  return parsed.success ? parsed.data : undefined;
}

const networkMtu = mtuFrom(576);

const create = {
  name: text,
  description: text.optional(),
  subnet: subnet.optional(),
  provision_start_ip: address.optional(),
  provision_end_ip: address.optional(),
  gateway: z
    .union([address, z.literal('').transform(() => undefined), z.null().transform(() => undefined)], {
      error: 'invalid IP address',
    })
    .optional(),
  resolvers: addressList.optional(),
  routes: routes.optional(),
  mtu: networkMtu.optional(),
  uuid: uuid.optional(),
  fields: fieldList(networkFields).optional(),
};

export const createNetworkSchema = z.strictObject({
  ...create,
  nic_tag: text,
  vlan_id: vlanId,
  owner_uuids: uuidList.optional(),
});

/** The MTU and NIC tag of a fabric network are the fabric's; owner and VLAN are in the path and may be here as well. */
export const createFabricNetworkSchema = z.strictObject({
  ...create,
  internet_nat: flag.optional(),
  owner_uuid: uuid.optional(),
  owner_uuids: uuidList.optional(),
  vlan_id: vlanId.optional(),
  fabric: flag.optional(),
});

export const updateNetworkSchema = z.strictObject({
  name: text.optional(),
  description: text.optional(),
  owner_uuids: uuidList.optional(),
  mtu: networkMtu.optional(),
  gateway: address.optional(),
  provision_start_ip: address.optional(),
  provision_end_ip: address.optional(),
  resolvers: addressList.optional(),
  routes: routes.optional(),
  uuid: uuid.optional(),
  owner_uuid: uuid.optional(),
  fields: fieldList(networkFields).optional(),
  // What may not be changed, and is refused with a word of its own.
  fabric: flag.optional(),
  family: choice(['ipv4', 'ipv6']).optional(),
  nic_tag: text.optional(),
  subnet: subnet.optional(),
  vlan_id: vlanId.optional(),
  vnet_id: z.number().optional(),
  gateway_provisioned: flag.optional(),
  internet_nat: flag.optional(),
});
export type NetworkUpdate = z.output<typeof updateNetworkSchema>;

type MaybeAddress = string | undefined;
interface Addresses {
  readonly provision_start_ip?: MaybeAddress;
  readonly provision_end_ip?: MaybeAddress;
  readonly gateway?: MaybeAddress;
  readonly resolvers?: readonly string[] | undefined;
  readonly routes?: Readonly<Record<string, string>> | undefined;
}

export interface Range {
  readonly subnet: string;
  readonly parsed: Subnet;
  readonly provision_start_ip: string;
  readonly provision_end_ip: string;
}

/** The subnet and range of a new network, once it is sure that they fit each other. @throws InvalidParameters */
export function checkNewNetwork(given: Addresses & { readonly subnet?: string | undefined }): Range {
  const { subnet: wanted, provision_start_ip, provision_end_ip } = given;
  if (wanted === undefined || provision_start_ip === undefined || provision_end_ip === undefined) {
    const names = ['provision_end_ip', 'provision_start_ip', 'subnet'] as const;
    throw refused(...names.filter((name) => given[name] === undefined).map((name) => missingField(name)));
  }
  const parsed = parseSubnet(wanted);
  checkFamilies(parsed.family, given);
  checkRange(parsed, { ...given, provision_start_ip, provision_end_ip });
  return { subnet: wanted, parsed, provision_start_ip, provision_end_ip };
}

/** A fabric is for addresses that anybody may use. @throws InvalidParameters */
export function checkFabricSubnet(given: Subnet): void {
  if (!isPrivate(given)) throw refused(invalidField('subnet', 'subnet must be within private ranges'));
  if (given.family !== 'ipv4') throw refused(invalidField('subnet', 'Fabric networks must be IPv4'));
}

/** @throws InvalidParameters where an address is of another family than the subnet */
export function checkFamilies(family: Family, given: Addresses): void {
  const errors: FieldError[] = [];
  const strange = (text: MaybeAddress) => text !== undefined && familyOf(text.split('/')[0] ?? '') !== family;
  for (const field of ['provision_start_ip', 'provision_end_ip'] as const) {
    const message = `${field} and subnet must both be IPv4 or IPv6 addresses`;
    if (strange(given[field])) errors.push(invalidField(field, message));
  }
  if (strange(given.gateway))
    errors.push(invalidField('gateway', `gateway should match subnet type (${family})`));
  const resolvers = (given.resolvers ?? []).filter(strange);
  if (resolvers.length > 0)
    errors.push(invalidField('resolvers', `resolvers should match subnet type (${family})`, resolvers));
  const destinations = Object.keys(given.routes ?? {}).filter(strange);
  if (destinations.length > 0) {
    const message = `addresses used for routing should match subnet type (${family})`;
    errors.push(invalidField('routes', message, destinations));
  }
  if (errors.length > 0) throw refused(...errors);
}

/** @throws InvalidParameters where the range or the gateway is not in the subnet */
export function checkRange(
  within: Subnet,
  given: {
    readonly provision_start_ip: string;
    readonly provision_end_ip: string;
    readonly gateway?: MaybeAddress;
  },
): void {
  const errors: FieldError[] = [];
  for (const field of ['provision_start_ip', 'provision_end_ip'] as const) {
    if (!contains(within, given[field]))
      errors.push(invalidField(field, `${field} cannot be outside subnet`));
    else if (given[field] === broadcastOf(within))
      errors.push(invalidField(field, `${field} cannot be the broadcast address`));
  }
  const inRange = errors.length === 0;
  if (given.gateway !== undefined && !contains(within, given.gateway))
    errors.push(invalidField('gateway', 'gateway cannot be outside subnet'));
  if (inRange && addressToNumber(given.provision_start_ip) >= addressToNumber(given.provision_end_ip)) {
    const message = 'provision_start_ip must be before provision_end_ip';
    errors.push(invalidField('provision_end_ip', message), invalidField('provision_start_ip', message));
  }
  if (errors.length > 0) throw refused(...errors);
}
