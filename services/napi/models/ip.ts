import { adminOwner } from './network.ts';

/** An address of a network that is, or was, in use. Its record stays for ever; free is what nothing belongs to. */
export interface IpRecord {
  readonly ipaddr: string;
  readonly reserved: boolean;
  readonly belongs_to_type?: string;
  readonly belongs_to_uuid?: string;
  readonly owner_uuid?: string;
  readonly v: 2;
}

/** Whether a NIC that asks for the address may have it: nothing has it, or it was only set aside with its network. */
export function isProvisionable({ belongs_to_type: type, belongs_to_uuid: user }: IpRecord): boolean {
  return type === undefined || user === undefined || (type === 'other' && user === adminOwner);
}

/** The record of an address that its user lets go; its owner stays the owner. */
export function unassigned({ ipaddr, reserved, owner_uuid, v }: IpRecord): IpRecord {
  return { ipaddr, reserved, ...(owner_uuid === undefined ? {} : { owner_uuid }), v };
}

/** The record of an address whose NIC is gone: a reserved one stays its owner's, as in Triton. */
export function released(ip: IpRecord): IpRecord {
  return ip.reserved ? unassigned(ip) : { ipaddr: ip.ipaddr, reserved: false, v: 2 };
}

/** An address as clients see it; one that was never used has no record and is free. */
export function presentIp(
  networkUuid: string,
  address: string,
  ip: IpRecord | undefined,
): Record<string, unknown> {
  const { belongs_to_type, belongs_to_uuid, owner_uuid, reserved = false } = ip ?? {};
  const users = Object.fromEntries(
    Object.entries({ belongs_to_type, belongs_to_uuid, owner_uuid }).filter(
      ([, value]) => value !== undefined,
    ),
  );
  const free = !reserved && Object.keys(users).length === 0;
  return { ip: address, network_uuid: networkUuid, reserved, free, ...users };
}
