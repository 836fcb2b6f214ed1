import type { DesiredOf } from '../contract/desired.ts';
import { fabricBridge, vxlanName } from '../driver/names.ts';
import type { Kernel } from '../driver/types.ts';
import { canonicalAddress } from '../firewall/addresses.ts';

/** What a plan finds that it cannot do, by desired key. */
export type Failures = Map<string, string>;

export interface NodeFacts {
  readonly uuid: string;
  /** Without prefix length. */
  readonly underlay: string;
}

/** Which VLAN each vnet carries on this node already, by VXLAN network id. */
export function carriedVlans(kernel: Kernel): Map<number, number> {
  const carried = new Map<number, number>();
  for (const { vni, bridge } of kernel.vxlans.values()) {
    const vlan = Number(bridge.split('.')[1]);
    if (Number.isInteger(vlan)) carried.set(vni, vlan);
  }
  return carried;
}

/**
 * Adds to `kernel` what the overlays ask for: a bridge and a VXLAN device for each, an entry for every MAC that is on another
 * node, and the answers to ARP. Nothing is learned or flooded between nodes, so a MAC without an entry is not reached.
 *
 * A vnet carries one VLAN on a node: VXLAN leaves no room for a second but by 802.1Q tags, which not every kernel has. A
 * second one is refused, and never mixed with the first.
 */
export function planOverlays(
  kernel: Kernel,
  overlays: ReadonlyMap<string, DesiredOf<'overlay'>>,
  carried: ReadonlyMap<number, number>,
  node: NodeFacts,
  failures: Failures,
): void {
  const wanted = [...overlays].sort(([a], [b]) => (a < b ? -1 : 1));
  const vlans = new Map<number, number>();
  for (const [, { body }] of wanted) {
    if (carried.get(body.vnet_id) === body.vlan_id) vlans.set(body.vnet_id, body.vlan_id);
  }
  for (const [key, { body }] of wanted) {
    const vlan = vlans.get(body.vnet_id) ?? body.vlan_id;
    vlans.set(body.vnet_id, vlan);
    if (vlan !== body.vlan_id) {
      failures.set(key, `vnet ${body.vnet_id} already carries VLAN ${vlan} on this node`);
      continue;
    }
    const bridge = fabricBridge(body.vnet_id, body.vlan_id);
    const vxlan = vxlanName(body.vnet_id);
    kernel.bridges.set(bridge, { up: true });
    kernel.vxlans.set(vxlan, { vni: body.vnet_id, local: node.underlay, bridge, sound: true });
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
