import { statfs } from 'node:fs/promises';
import * as os from 'node:os';
import { ownMac } from '../driver/names.ts';

export interface NodeIdentity {
  readonly uuid: string;
  readonly hostname: string;
  readonly datacenter: string;
  /** Underlay address without prefix length. */
  readonly underlay: string;
  readonly home: string;
}

/** What the node is, in the fields of Triton's `sysinfo`. */
export async function sysinfo(node: NodeIdentity): Promise<Record<string, unknown>> {
  const disk = await statfs(node.home);
  const cpus = os.cpus();
  return {
    UUID: node.uuid,
    Hostname: node.hostname,
    'Datacenter Name': node.datacenter,
    'System Type': os.type(),
    'Live Image': os.release(),
    'SDC Version': '7.0',
    'Boot Time': String(Math.floor(Date.now() / 1000 - os.uptime())),
    Setup: true,
    'VM Capable': true,
    'CPU Type': cpus[0]?.model ?? 'unknown',
    'CPU Physical Cores': 1,
    'CPU Total Cores': Math.max(1, cpus.length),
    'MiB of Memory': String(Math.floor(os.totalmem() / 2 ** 20)),
    Zpool: 'zones',
    'Zpool Size in GiB': Math.floor((disk.blocks * disk.bsize) / 2 ** 30),
    'Network Interfaces': {
      underlay: {
        'MAC Address': ownMac(node.uuid, 'underlay'),
        ip4addr: node.underlay,
        'Link Status': 'up',
        'NIC Names': ['underlay'],
      },
    },
    'Virtual Network Interfaces': {},
    'Link Aggregations': {},
  };
}
