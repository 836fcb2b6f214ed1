import { z } from 'zod';
import type { Nic } from '../../../agents/contract/desired.ts';
import type { VmNic } from './vm.ts';

/** A NIC as NAPI answers it: what of it VMAPI uses. */
export const napiNicSchema = z.looseObject({
  mac: z.string(),
  ip: z.string(),
  netmask: z.string(),
  vlan_id: z.number().int(),
  nic_tag: z.string(),
  network_uuid: z.string(),
  primary: z.boolean().default(false),
  gateway: z.string().optional(),
  mtu: z.number().int().optional(),
  model: z.string().optional(),
  resolvers: z.array(z.string()).default([]),
  created_timestamp: z.string().optional(),
});
export type NapiNic = z.output<typeof napiNicSchema>;

/** A network as NAPI answers it. */
export const napiNetworkSchema = z.looseObject({
  uuid: z.string(),
  nic_tag: z.string(),
  mtu: z.number().int().optional(),
  vnet_id: z.number().int().optional(),
  gateway: z.string().optional(),
});
export type NapiNetwork = z.output<typeof napiNetworkSchema>;

const defaultMtu = 1500;

/** How many leading bits a netmask has. */
export function prefixLength(netmask: string): number {
  return netmask
    .split('.')
    .map((octet) => Number(octet).toString(2).replaceAll('0', '').length)
    .reduce((sum, bits) => sum + bits, 0);
}

function interfaceNumber(nic: Pick<VmNic, 'interface'>): number {
  return Number(nic.interface.replace(/^net/, ''));
}

/** The VM's NICs after some were added: interfaces go on from the highest there is; a new one may be the primary. */
export function addNics(present: readonly VmNic[], added: readonly NapiNic[]): VmNic[] {
  let next = Math.max(-1, ...present.map(interfaceNumber)) + 1;
  const all = [...present, ...added.map((nic) => vmNic(nic, `net${next++}`))];
  return withOnePrimary(all, added.find((nic) => nic.primary)?.mac);
}

export function removeNics(present: readonly VmNic[], macs: readonly string[]): VmNic[] {
  return withOnePrimary(present.filter((nic) => !macs.includes(nic.mac)));
}

/** One of the NICs is primary: the wanted one, else the one that was, else the first. */
export function withOnePrimary<N extends { readonly mac: string; readonly primary: boolean }>(
  nics: readonly N[],
  wanted?: string,
): N[] {
  const primary = wanted ?? nics.find((nic) => nic.primary)?.mac ?? nics[0]?.mac;
  return nics.map((nic) => ({ ...nic, primary: nic.mac === primary }));
}

function vmNic(nic: NapiNic, name: string): VmNic {
  return {
    interface: name,
    mac: nic.mac,
    vlan_id: nic.vlan_id,
    nic_tag: nic.nic_tag,
    ip: nic.ip,
    ips: [`${nic.ip}/${prefixLength(nic.netmask)}`],
    netmask: nic.netmask,
    ...(nic.gateway === undefined ? {} : { gateway: nic.gateway, gateways: [nic.gateway] }),
    mtu: nic.mtu ?? defaultMtu,
    network_uuid: nic.network_uuid,
    primary: nic.primary,
    ...(nic.model === undefined ? {} : { model: nic.model }),
  };
}

/** The NIC as the node is to make it. */
export function desiredNic(nic: VmNic, network: NapiNetwork): Nic {
  return {
    mac: nic.mac,
    interface: nic.interface,
    network_uuid: nic.network_uuid,
    nic_tag: nic.nic_tag,
    ip: nic.ips[0] ?? nic.ip,
    ...(nic.gateway === undefined ? {} : { gateway: nic.gateway }),
    mtu: nic.mtu,
    vlan_id: nic.vlan_id,
    ...(network.vnet_id === undefined ? {} : { vnet_id: network.vnet_id }),
    primary: nic.primary,
  };
}
