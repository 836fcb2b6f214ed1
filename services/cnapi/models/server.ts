import { z } from 'zod';
import type { StatusRecord } from './status.ts';

/** What a compute node says of itself (Triton's `sysinfo`); what is not named here is kept as it is. */
export const sysinfoSchema = z.looseObject({
  UUID: z.uuid(),
  Hostname: z.string().min(1).max(255),
  'MiB of Memory': z.union([z.string(), z.number()]).optional(),
  'CPU Total Cores': z.coerce.number().optional(),
  'Boot Time': z.coerce.number().optional(),
  'Live Image': z.string().optional(),
  'Zpool Size in GiB': z.coerce.number().optional(),
  Setup: z.union([z.boolean(), z.string()]).optional(),
  'System Type': z.string().optional(),
  'Boot Parameters': z.looseObject({ headnode: z.string().optional() }).optional(),
  'Network Interfaces': z
    .record(
      z.string(),
      z.looseObject({
        'MAC Address': z.string(),
        ip4addr: z.string().optional(),
        'NIC Names': z.array(z.string()).default([]),
      }),
    )
    .default({}),
});
export type Sysinfo = z.infer<typeof sysinfoSchema>;

/** A server as CNAPI keeps it. */
export interface ServerRecord {
  readonly uuid: string;
  readonly hostname: string;
  readonly datacenter: string;
  readonly headnode: boolean;
  readonly reserved: boolean;
  readonly reservoir: boolean;
  readonly setup: boolean;
  readonly setting_up: boolean;
  readonly created: string;
  readonly last_boot: string | null;
  readonly ram: number;
  readonly system_type?: string;
  readonly current_platform: string;
  readonly boot_platform: string;
  readonly boot_params: Record<string, unknown>;
  readonly kernel_flags: Record<string, unknown>;
  readonly default_console: string;
  readonly serial: string;
  readonly comments: string;
  readonly rack_identifier: string;
  readonly traits: Record<string, unknown>;
  readonly overprovision_ratios: Record<string, number>;
  readonly reservation_ratio: number;
  readonly transitional_status: string;
  readonly agents: unknown[];
  readonly next_reboot?: string;
  readonly sysinfo: Sysinfo;
}

/** The record that a node's sysinfo makes of what was known: sysinfo wins where it speaks, operators keep the rest. */
export function applySysinfo(
  present: ServerRecord | undefined,
  sysinfo: Sysinfo,
  datacenter: string,
): ServerRecord {
  const platform = sysinfo['Live Image'] ?? present?.current_platform ?? '';
  const bootTime = sysinfo['Boot Time'];
  return {
    datacenter,
    reserved: false,
    reservoir: false,
    setting_up: false,
    created: new Date().toISOString(),
    boot_platform: platform,
    boot_params: {},
    kernel_flags: {},
    default_console: 'serial',
    serial: 'ttyb',
    comments: '',
    rack_identifier: '',
    traits: {},
    overprovision_ratios: {},
    reservation_ratio: 0.15,
    transitional_status: '',
    agents: [],
    headnode: sysinfo['Boot Parameters']?.headnode === 'true',
    ...present,
    uuid: sysinfo.UUID,
    hostname: sysinfo.Hostname,
    ...(sysinfo['System Type'] === undefined ? {} : { system_type: sysinfo['System Type'] }),
    setup: sysinfo.Setup === true || sysinfo.Setup === 'true',
    last_boot: bootTime === undefined ? null : new Date(bootTime * 1000).toISOString(),
    ram: Number(sysinfo['MiB of Memory'] ?? 0),
    current_platform: platform,
    sysinfo,
  };
}

/** What an operator may change of a server (POST /servers/:uuid). */
export const serverUpdateSchema = z.strictObject({
  agents: z.array(z.looseObject({})).optional(),
  boot_platform: z.string().optional(),
  boot_params: z.record(z.string(), z.unknown()).optional(),
  comments: z.string().optional(),
  datacenter: z.string().optional(),
  default_console: z.string().optional(),
  next_reboot: z.iso.datetime().optional(),
  overprovision_ratios: z
    .partialRecord(z.enum(['cpu', 'ram', 'disk', 'io', 'net']), z.number().min(0))
    .optional(),
  rack_identifier: z.string().optional(),
  reservation_ratio: z.number().min(0).max(1).optional(),
  reserved: z.boolean().optional(),
  reservoir: z.boolean().optional(),
  serial: z.string().optional(),
  setting_up: z.boolean().optional(),
  setup: z.boolean().optional(),
  traits: z.record(z.string(), z.unknown()).optional(),
  transitional_status: z.string().optional(),
});

export interface Capacity {
  /** MiB */
  readonly ram: number;
  /** Hundredths of a core. */
  readonly cpu: number;
  /** MiB */
  readonly disk: number;
}

export interface Extras {
  readonly last_heartbeat?: boolean;
  readonly sysinfo?: boolean;
  readonly agents?: boolean;
  readonly capacity?: Capacity | undefined;
  readonly vms?: Record<string, unknown> | undefined;
}

/** A server as clients see it: `status` is `running`, `unknown`, or what stands in for unknown while it reboots. */
export function presentServer(
  record: ServerRecord,
  status: StatusRecord | undefined,
  extras: Extras,
): Record<string, unknown> {
  const { sysinfo, agents, ...general } = record;
  const heard = status?.status === 'running';
  return {
    ...general,
    status: heard ? 'running' : record.transitional_status || 'unknown',
    ...(extras.last_heartbeat === true ? { last_heartbeat: status?.last_heartbeat ?? null } : {}),
    ...(extras.sysinfo === true ? { sysinfo } : {}),
    ...(extras.agents === true ? { agents } : {}),
    ...(extras.vms === undefined ? {} : { vms: extras.vms }),
    ...(extras.capacity === undefined
      ? {}
      : {
          unreserved_ram: extras.capacity.ram,
          unreserved_cpu: extras.capacity.cpu,
          unreserved_disk: extras.capacity.disk,
        }),
  };
}
