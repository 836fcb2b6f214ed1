import type { DesiredOf } from '../contract/desired.ts';
import { fabricBridge, vxlanName } from '../driver/names.ts';
import type { Kernel } from '../driver/types.ts';
import { canonicalAddress } from '../firewall/addresses.ts';

export interface NodeFacts {
  readonly uuid: string;
  /** Without prefix length. */
  readonly underlay: string;
}

/**
 * The UDP port of a fabric VLAN's VXLAN. VXLAN has a number for the vnet and none for a VLAN in it, and the tags that could
 * carry one within need a kernel with 802.1Q, which not every one is. So the port tells VLANs apart, and the kernel
 * keeps them apart: VLAN 2, the one that fabrics have by default, is on VXLAN's own port.
 */
export function vxlanPort(vlan: number): number {
  return vlan === 2 ? 4789 : 16384 + vlan;
}

/**
 * Adds to `kernel` what the overlays ask for: a bridge and a VXLAN device for each VLAN of a vnet, an entry for every MAC
 * that is on another node, and the answers to ARP. Nothing is learned or flooded between nodes, so a MAC without an
 * entry is not reached.
 */
export function planOverlays(
  kernel: Kernel,
  overlays: ReadonlyMap<string, DesiredOf<'overlay'>>,
  node: NodeFacts,
): void {
  for (const { body } of overlays.values()) {
    const bridge = fabricBridge(body.vnet_id, body.vlan_id);
    const vxlan = vxlanName(body.vnet_id, body.vlan_id);
    kernel.bridges.set(bridge, { up: true });
    kernel.vxlans.set(vxlan, {
      vni: body.vnet_id,
      port: vxlanPort(body.vlan_id),
      local: node.underlay,
      bridge,
      sound: true,
    });
    for (const mapping of body.mappings) {
      if (mapping.server_uuid === node.uuid) continue;
      const ip = canonicalAddress(mapping.ip);
      kernel.forwards.set(`${vxlan} ${mapping.mac}`, {
        vxlan,
        mac: mapping.mac,
        remote: canonicalAddress(mapping.underlay_ip),
        bridged: true,
      });
      kernel.neighbours.set(`${bridge} ${ip}`, { bridge, ip, mac: mapping.mac });
    }
  }
}
