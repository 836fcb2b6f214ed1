import type { DesiredOf } from '../../../agents/contract/desired.ts';
import type { UnderlayRecord } from '../../common/records.ts';
import { formatMac } from '../models/mac.ts';
import type { NetworkRecord } from '../models/network.ts';
import type { NicRecord } from '../models/nic.ts';

/**
 * What the nodes must have so that one owner's overlays carry: for each fabric network that has NICs, where each of its
 * addresses is, for every node that has one. A NIC on a node whose underlay address is not known yet is left out until
 * it is. A pure function of the owner's networks and NICs, and of the nodes' underlay addresses.
 */
export function computeOverlays(
  owner: string,
  networks: readonly NetworkRecord[],
  nics: readonly NicRecord[],
  underlay: ReadonlyMap<string, UnderlayRecord>,
): DesiredOf<'overlay'>[] {
  const desired: DesiredOf<'overlay'>[] = [];
  for (const network of networks) {
    if (network.vnet_id === undefined) continue;
    const mappings = nics
      .filter(
        (nic) => nic.network_uuid === network.uuid && nic.ipaddr !== undefined && nic.cn_uuid !== undefined,
      )
      .flatMap((nic) => {
        const node = underlay.get(nic.cn_uuid!);
        if (node === undefined) return [];
        return [
          { mac: formatMac(nic.mac), ip: nic.ipaddr!, server_uuid: nic.cn_uuid!, underlay_ip: node.ip },
        ];
      })
      .sort((a, b) => (a.mac < b.mac ? -1 : 1));
    if (mappings.length === 0) continue;
    desired.push({
      v: 1,
      kind: 'overlay',
      key: `overlay/${network.uuid}`,
      owner_uuid: owner,
      span: [...new Set(mappings.map((mapping) => mapping.server_uuid))].sort(),
      body: {
        network_uuid: network.uuid,
        vnet_id: network.vnet_id,
        vlan_id: network.vlan_id,
        mtu: network.mtu,
        subnet: network.subnet,
        ...(network.gateway_addr === undefined ? {} : { gateway: network.gateway_addr }),
        mappings,
      },
    });
  }
  return desired;
}
