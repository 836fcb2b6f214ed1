import type { Kv } from '../../../kvstore/types.ts';
import { oneOf } from '../../common/filter.ts';
import { vmsBucket } from '../../common/records.ts';
import type { Capacity, ServerRecord } from './server.ts';

/** What of a VM counts against its server; field names and units are VMAPI's (MiB, GiB, hundredths of a core). */
export interface PlacedVm {
  readonly uuid: string;
  readonly owner_uuid: string;
  readonly server_uuid: string;
  readonly state: string;
  readonly ram?: number;
  readonly max_physical_memory?: number;
  readonly cpu_cap?: number;
  readonly quota?: number;
}

/** So many servers are asked for by name; of more, all are read. */
const mostNamed = 500;

/** The VMs that each of the servers holds, whether they run or not. */
export async function vmsByServer(kv: Kv, servers: readonly string[]): Promise<Map<string, PlacedVm[]>> {
  const named = servers.length > mostNamed ? '(server_uuid=*)' : oneOf('server_uuid', servers);
  const placed = `(&${named}(!(state=destroyed))(!(state=failed)))`;
  const found = await kv.find<PlacedVm>(vmsBucket.name, placed, { noLimit: true });
  const byServer = new Map<string, PlacedVm[]>(servers.map((uuid) => [uuid, []]));
  for (const { value } of found.objects) byServer.get(value.server_uuid)?.push(value);
  return byServer;
}

/** What is left of a server: its resources, times the overprovisioning, less the reserved part, less its VMs'. */
export function capacityOf(server: ServerRecord, vms: readonly PlacedVm[]): Capacity {
  const { overprovision_ratios: ratio, sysinfo } = server;
  const sum = (of: (vm: PlacedVm) => number | undefined) =>
    vms.reduce((total, vm) => total + (of(vm) ?? 0), 0);
  const usable = server.ram * (1 - server.reservation_ratio);
  return {
    ram: Math.floor(usable * (ratio.ram ?? 1) - sum((vm) => vm.ram ?? vm.max_physical_memory)),
    cpu: Math.floor((sysinfo['CPU Total Cores'] ?? 0) * 100 * (ratio.cpu ?? 1) - sum((vm) => vm.cpu_cap)),
    disk: Math.floor(
      (sysinfo['Zpool Size in GiB'] ?? 0) * 1024 * (ratio.disk ?? 1) - sum((vm) => vm.quota) * 1024,
    ),
  };
}
