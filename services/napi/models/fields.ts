import { isIP } from 'node:net';
import { z } from 'zod';
import { addressListOf } from '../../common/fields.ts';
import { canonicalAddress, parseSubnet, type Subnet } from './address.ts';
import { parseMac } from './mac.ts';

/** The kinds of parameters that are NAPI's own, with Triton's words for those that are wrong. */

const vlanMessage = 'VLAN ID must be a number between 0 and 4094, and not 1';

export const address = z
  .string('invalid IP address')
  .refine((s) => isIP(s) !== 0, { error: 'invalid IP address', abort: true })
  .transform(canonicalAddress);

export const ipv4 = address.refine((s) => isIP(s) === 4, 'Specified address must be IPv4');

/** A subnet, in its canonical spelling. */
export const subnet = z.string('must be a string').transform((given, context) => {
  const [start = '', bits = '', ...more] = given.split('/');
  const complain = (message: string) => {
    context.addIssue(message);
    return z.NEVER;
  };
  if (bits === '' || more.length > 0) return complain('Subnet must be in CIDR form');
  const family = isIP(start);
  if (family === 0) return complain('Subnet IP invalid');
  if (!/^\d+$/.test(bits) || Number(bits) < 8 || Number(bits) > (family === 4 ? 32 : 128))
    return complain('Subnet bits invalid');
  const canonical = `${canonicalAddress(start)}/${Number(bits)}`;
  return parsed(canonical) === undefined ? complain('invalid CIDR format') : canonical;
});

function parsed(given: string): Subnet | undefined {
  try {
    return parseSubnet(given);
  } catch {
    return undefined;
  }
}

export const addressList = addressListOf(canonicalAddress);

export const vlanId = z
  .union([z.number(), z.string()], vlanMessage)
  .transform((given) => (given === '' ? Number.NaN : Number(given)))
  .refine((id) => Number.isInteger(id) && id >= 0 && id <= 4094, vlanMessage);

export function mtuFrom(least: number) {
  const message = `mtu must be a number between ${least} and 9000`;
  return z.number(message).int(message).min(least, message).max(9000, message);
}

/** A MAC, as a number. */
export const mac = z.string('invalid MAC address').transform((given, context) => {
  const number = parseMac(given);
  if (number === undefined) context.addIssue('invalid MAC address');
  return number ?? z.NEVER;
});
