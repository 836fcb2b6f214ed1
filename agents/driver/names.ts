import { createHash } from 'node:crypto';

/**
 * Names of devices and namespaces: each a pure function of what it stands for, so that a restarted agent finds what
 * its predecessor made. A device's name has at most 15 characters.
 */

export interface NodeNames {
  readonly prefix: string;
  readonly node: string;
  readonly underlay: string;
}

export function nodeNames(prefix: string, nodeUuid: string): NodeNames {
  return { prefix, node: `${prefix}-node-${nodeUuid.slice(0, 8)}`, underlay: `${prefix}-underlay` };
}

/** The namespace of a VM: unique but for a clash of the first 8 digits, which the driver detects and refuses. */
export function machineNamespace(prefix: string, vmUuid: string): string {
  return `${prefix}-vm-${vmUuid.slice(0, 8)}`;
}

/** The node's end of a NIC. */
export function portName(mac: string): string {
  return `v${mac.replaceAll(':', '')}`;
}

/** The VXLAN device of a fabric network. */
export function vxlanName(vni: number, vlan: number): string {
  return `vx${vni.toString(16)}.${vlan}`;
}

/** The bridge of a fabric network: one for each VLAN of a vnet. */
export function fabricBridge(vni: number, vlan: number): string {
  return `bf${vni.toString(16)}.${vlan}`;
}

/** The bridge of a network that is not on a fabric: one for each VLAN of a NIC tag. */
export function tagBridge(nicTag: string, vlan: number): string {
  return `bt${createHash('sha256').update(nicTag).digest('hex').slice(0, 8)}.${vlan}`;
}

/** A locally administered MAC that is always the same for the same words. */
export function ownMac(...words: string[]): string {
  const digits = createHash('sha256').update(words.join(' ')).digest('hex').slice(0, 10);
  return `02:${digits.match(/../g)?.join(':')}`;
}
