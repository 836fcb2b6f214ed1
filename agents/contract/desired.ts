import { z } from 'zod';

/**
 * What services and agents agree on: the objects of the bucket `conger_desired`. Together, those whose span holds a
 * node are that node's desired state. Services write them (VMAPI the machines, NAPI the overlays, FWAPI the firewall);
 * agents receive them, and nothing else, and make the kernel look like it.
 */

const uuid = z.string();

export const nicSchema = z.object({
  mac: z.string(),
  interface: z.string(),
  network_uuid: uuid,
  nic_tag: z.string(),
  /** An address with its prefix length, `192.168.1.5/24`. */
  ip: z.string(),
  gateway: z.string().optional(),
  mtu: z.number().int(),
  vlan_id: z.number().int(),
  /** The VXLAN network id of a fabric; absent on a NIC that is not on a fabric. */
  vnet_id: z.number().int().optional(),
  primary: z.boolean(),
});

/**
 * kind `vm`, key `vm/<uuid>`, span: the VM's node. The VM is to be there, running or stopped. Without the object it is to
 * be gone, and so it is while the object says `destroyed`; then the node also reports that it is, whether or not it ever
 * had the VM, until the report is accepted and anew after each restart.
 */
export const vmBodySchema = z.object({
  uuid,
  alias: z.string().nullable(),
  brand: z.string(),
  ram: z.number(),
  state: z.enum(['running', 'stopped', 'destroyed']),
  /** Counts up with each reboot that is asked for; an agent that sees a higher one restarts the VM. */
  reboots: z.number().int(),
  /**
   * Whether the firewall is to be on. It is so from the moment the object says so, with nothing but the defaults
   * (incoming blocked, outgoing allowed) until the rules come. It cannot turn off what a `firewall-vm` object turns on.
   * Absent in objects of older writers, whose firewall is told by `firewall-vm` alone.
   */
  firewall_enabled: z.boolean().default(false),
  nics: z.array(nicSchema),
});

/** kind `overlay`, key `overlay/<network uuid>`, span: the nodes that have a NIC on this fabric network. */
export const overlayBodySchema = z.object({
  network_uuid: uuid,
  vnet_id: z.number().int(),
  vlan_id: z.number().int(),
  mtu: z.number().int(),
  subnet: z.string(),
  gateway: z.string().optional(),
  /** Where each address is: the MAC and IP, and the node's underlay address. */
  mappings: z.array(
    z.object({ mac: z.string(), ip: z.string(), server_uuid: uuid, underlay_ip: z.string() }),
  ),
});

/** kind `firewall-vm`, key `firewall-vm/<uuid>`, span: the VM's node. The VM has its firewall on: incoming blocked, outgoing allowed, but for the rules. */
export const firewallVmBodySchema = z.object({
  uuid,
  nics: z.array(
    z.object({ mac: z.string(), ips: z.array(z.string()), vnet_id: z.number().int().optional() }),
  ),
});

const portRange = z.object({ start: z.number().int(), end: z.number().int() });

/**
 * kind `firewall-rule`, key `firewall-rule/<rule uuid>/<owner uuid>`, span: the nodes of the VMs that it applies to.
 * `in` holds the VMs that receive and whom they receive from, `out` those that send and whom they send to.
 */
export const firewallRuleBodySchema = z.object({
  rule_uuid: uuid,
  version: z.string(),
  action: z.enum(['allow', 'block']),
  priority: z.number().int(),
  log: z.boolean(),
  protocol: z.enum(['tcp', 'udp', 'icmp', 'icmp6', 'ah', 'esp']),
  /** tcp and udp: the destination ports ('all' or ranges). */
  ports: z.union([z.literal('all'), z.array(portRange)]).optional(),
  /** icmp and icmp6: types, each with a code or any ('all': every type). */
  types: z
    .union([
      z.literal('all'),
      z.array(z.object({ type: z.number().int(), code: z.number().int().optional() })),
    ])
    .optional(),
  in: z.object({ vms: z.array(uuid), peers: z.union([z.literal('any'), z.array(z.string())]) }).optional(),
  out: z.object({ vms: z.array(uuid), peers: z.union([z.literal('any'), z.array(z.string())]) }).optional(),
});

const common = { v: z.literal(1), key: z.string(), owner_uuid: uuid, span: z.array(uuid) };

export const desiredSchema = z.discriminatedUnion('kind', [
  z.object({ ...common, kind: z.literal('vm'), body: vmBodySchema }),
  z.object({ ...common, kind: z.literal('overlay'), body: overlayBodySchema }),
  z.object({ ...common, kind: z.literal('firewall-vm'), body: firewallVmBodySchema }),
  z.object({ ...common, kind: z.literal('firewall-rule'), body: firewallRuleBodySchema }),
]);

export type Desired = z.infer<typeof desiredSchema>;
export type DesiredKind = Desired['kind'];
export type DesiredOf<K extends DesiredKind> = Extract<Desired, { kind: K }>;
export type Nic = z.infer<typeof nicSchema>;
export type VmBody = z.infer<typeof vmBodySchema>;
export type OverlayBody = z.infer<typeof overlayBodySchema>;
export type FirewallVmBody = z.infer<typeof firewallVmBodySchema>;
export type FirewallRuleBody = z.infer<typeof firewallRuleBodySchema>;

export const desiredBucket = {
  name: 'conger_desired',
  config: {
    index: { kind: { type: 'string' }, owner_uuid: { type: 'string' }, span: { type: '[string]' } },
    options: { version: 1, partition: 'owner_uuid' },
  },
} as const;
