import type { DesiredOf, Nic } from '../contract/desired.ts';
import { fabricBridge, machineNamespace, portName, tagBridge } from '../driver/names.ts';
import type { Kernel } from '../driver/types.ts';
import { canonicalAddress, parseInterfaceAddress } from '../firewall/addresses.ts';

/** What a plan finds that it cannot do, by desired key. */
export type Failures = Map<string, string>;

/** The bridge that a NIC is on. */
export function bridgeOf(nic: Pick<Nic, 'nic_tag' | 'vlan_id' | 'vnet_id'>): string {
  return nic.vnet_id === undefined
    ? tagBridge(nic.nic_tag, nic.vlan_id)
    : fabricBridge(nic.vnet_id, nic.vlan_id);
}

/** The NIC whose gateway is the VM's default route: the primary one, else the first that has one. */
function routed(nics: readonly Nic[]): Nic | undefined {
  return (
    nics.find((nic) => nic.primary && nic.gateway !== undefined) ??
    nics.find((nic) => nic.gateway !== undefined)
  );
}

/**
 * Adds to `kernel` what the VMs ask for: a namespace each, and for one that runs a veth for each NIC into its network's
 * bridge. A stopped VM keeps its namespace and has no NICs; a destroyed one has nothing.
 */
export function planMachines(
  kernel: Kernel,
  vms: ReadonlyMap<string, DesiredOf<'vm'>>,
  prefix: string,
  failures: Failures,
): void {
  for (const [key, { body }] of [...vms].sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (body.state === 'destroyed') continue;
    const taken =
      body.state === 'running' ? body.nics.find((nic) => kernel.ports.has(portName(nic.mac))) : undefined;
    if (taken !== undefined) {
      failures.set(key, `the MAC ${taken.mac} is another VM's`);
      continue;
    }
    const running = body.state === 'running';
    kernel.machines.set(body.uuid, { namespace: machineNamespace(prefix, body.uuid), running });
    const gatewayNic = routed(body.nics);
    for (const nic of running ? body.nics : []) {
      const address = parseInterfaceAddress(nic.ip);
      if (address === null) throw new Error(`not an address with its prefix length: ${nic.ip}`);
      const bridge = bridgeOf(nic);
      kernel.bridges.set(bridge, { up: true });
      kernel.ports.set(portName(nic.mac), {
        machine: body.uuid,
        interface: nic.interface,
        mac: nic.mac,
        bridge,
        mtu: nic.mtu,
        ip: `${address.address}/${address.prefix}`,
        gateway: nic === gatewayNic && nic.gateway !== undefined ? canonicalAddress(nic.gateway) : null,
        up: true,
      });
    }
  }
}
