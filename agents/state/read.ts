import { type Desired, desiredSchema } from '../contract/desired.ts';
import { isAddress, parseInterfaceAddress } from '../firewall/addresses.ts';
import { checkRule } from '../firewall/validate.ts';

/** A desired object as it came, and what was made of it. */
export type ReadObject =
  | { readonly key: string; readonly raw: unknown; readonly object: Desired }
  | { readonly key: string; readonly raw: unknown; readonly object: null; readonly reason: string };

/** Stands in for the key of an object that has none. */
export const noKey = '(no key)';

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const mac = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/;
const device = /^[a-z][a-z0-9._-]{0,14}$/;

function checkVni(vni: number): string | null {
  return vni >= 1 && vni < 2 ** 24 ? null : `not a VXLAN network id: ${vni}`;
}

function checkVlan(vlan: number): string | null {
  return vlan >= 0 && vlan < 4095 ? null : `not a VLAN: ${vlan}`;
}

/** Why an object of the right shape cannot be programmed, or null if it can: its words become parts of commands. */
function check(desired: Desired): string | null {
  const { kind, key, body } = desired;
  switch (kind) {
    case 'vm': {
      if (!uuid.test(body.uuid)) return `not a UUID: ${body.uuid}`;
      if (key !== `vm/${body.uuid}`) return `its key is not vm/${body.uuid}`;
      for (const nic of body.nics) {
        if (!mac.test(nic.mac)) return `not a MAC address: ${nic.mac}`;
        if (!device.test(nic.interface) || nic.interface === 'lo')
          return `not a device name: ${nic.interface}`;
        const address = parseInterfaceAddress(nic.ip);
        if (address === null) return `not an address with its prefix length: ${nic.ip}`;
        if (nic.gateway !== undefined && !isAddress(nic.gateway)) return `not an address: ${nic.gateway}`;
        if (nic.mtu < 576 || nic.mtu > 9000) return `not an MTU: ${nic.mtu}`;
        const bad = checkVlan(nic.vlan_id) ?? (nic.vnet_id === undefined ? null : checkVni(nic.vnet_id));
        if (bad !== null) return bad;
      }
      if (new Set(body.nics.map((nic) => nic.mac)).size < body.nics.length) return 'two NICs have one MAC';
      if (new Set(body.nics.map((nic) => nic.interface)).size < body.nics.length) {
        return 'two NICs have one interface name';
      }
      return null;
    }
    case 'overlay': {
      const bad = checkVni(body.vnet_id) ?? checkVlan(body.vlan_id);
      if (bad !== null) return bad;
      for (const mapping of body.mappings) {
        if (!mac.test(mapping.mac)) return `not a MAC address: ${mapping.mac}`;
        if (!isAddress(mapping.ip)) return `not an address: ${mapping.ip}`;
        if (!isAddress(mapping.underlay_ip)) return `not an address: ${mapping.underlay_ip}`;
      }
      return null;
    }
    case 'firewall-vm': {
      if (!uuid.test(body.uuid)) return `not a UUID: ${body.uuid}`;
      if (key !== `firewall-vm/${body.uuid}`) return `its key is not firewall-vm/${body.uuid}`;
      const bad = body.nics.find((nic) => !mac.test(nic.mac));
      return bad === undefined ? null : `not a MAC address: ${bad.mac}`;
    }
    case 'firewall-rule':
      return checkRule(body);
  }
}

/** Reads one object. What is wrong with it is said in one line. */
export function readObject(raw: unknown): ReadObject {
  const given = typeof raw === 'object' && raw !== null && 'key' in raw ? raw.key : undefined;
  const key = typeof given === 'string' && given !== '' ? given : noKey;
  const parsed = desiredSchema.safeParse(raw);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const where = issue?.path.join('.');
    return { key, raw, object: null, reason: `${where ? `${where}: ` : ''}${issue?.message ?? 'not valid'}` };
  }
  if (key === noKey) return { key, raw, object: null, reason: 'it has no key' };
  const reason = check(parsed.data);
  return reason === null ? { key, raw, object: parsed.data } : { key, raw, object: null, reason };
}
