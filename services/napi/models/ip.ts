/** An address of a network that is, or was, in use. Its record stays for ever; free is what nothing belongs to. */
export interface IpRecord {
  readonly ipaddr: string;
  readonly reserved: boolean;
  readonly belongs_to_type?: string;
  readonly belongs_to_uuid?: string;
  readonly owner_uuid?: string;
  readonly v: 2;
}

export function isFree(ip: IpRecord): boolean {
  return ip.belongs_to_uuid === undefined && !ip.reserved;
}

/** The record of an address that its user lets go: a reserved one stays its owner's, as in Triton. */
export function released(ip: IpRecord): IpRecord {
  const kept = ip.reserved && ip.owner_uuid !== undefined ? { owner_uuid: ip.owner_uuid } : {};
  return { ipaddr: ip.ipaddr, reserved: ip.reserved, ...kept, v: 2 };
}

/** An address as clients see it; one that was never used has no record and is free. */
export function presentIp(
  networkUuid: string,
  address: string,
  ip: IpRecord | undefined,
): Record<string, unknown> {
  if (ip === undefined) return { ip: address, network_uuid: networkUuid, reserved: false, free: true };
  return {
    ip: ip.ipaddr,
    network_uuid: networkUuid,
    reserved: ip.reserved,
    free: isFree(ip) && ip.owner_uuid === undefined,
    ...(ip.belongs_to_type === undefined ? {} : { belongs_to_type: ip.belongs_to_type }),
    ...(ip.belongs_to_uuid === undefined ? {} : { belongs_to_uuid: ip.belongs_to_uuid }),
    ...(ip.owner_uuid === undefined ? {} : { owner_uuid: ip.owner_uuid }),
  };
}
