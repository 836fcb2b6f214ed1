/** A VLAN of an owner's fabric (bucket napi_fabric_vlans). */
export interface VlanRecord {
  readonly uuid: string;
  readonly owner_uuid: string;
  readonly vlan_id: number;
  readonly vnet_id: number;
  readonly name?: string;
  readonly description?: string;
  readonly v: 0;
}

/** An owner's fabric: the VXLAN network id that all of its VLANs share (bucket napi_fabrics). */
export interface FabricRecord {
  readonly owner_uuid: string;
  readonly vnet_id: number;
}

export function vlanKey(owner: string, vlanId: number): string {
  return `${owner}:${vlanId}`;
}

export function presentVlan({
  name,
  owner_uuid,
  vlan_id,
  vnet_id,
  description,
}: VlanRecord): Record<string, unknown> {
  return {
    ...(name === undefined ? {} : { name }),
    owner_uuid,
    vlan_id,
    vnet_id,
    ...(description === undefined ? {} : { description }),
  };
}
