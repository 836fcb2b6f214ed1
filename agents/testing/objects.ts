import { randomUUID } from 'node:crypto';
import type { DesiredOf, FirewallRuleBody, Nic, VmBody } from '../contract/desired.ts';

/** Desired objects for tests. */

export const owner = '00000000-0000-4000-8000-00000000000a';
const network = '00000000-0000-4000-8000-0000000000ff';

export interface TestVm {
  readonly uuid: string;
  readonly node: string;
  readonly mac: string;
  readonly ips: readonly string[];
  readonly vnet: number;
}

export function randomMac(): string {
  return `02:${randomUUID().replaceAll('-', '').slice(0, 10).match(/../g)?.join(':')}`;
}

export function testVm(node: string, ip: string, more: Partial<TestVm> = {}): TestVm {
  return { uuid: randomUUID(), node, mac: randomMac(), ips: [ip], vnet: 5, ...more };
}

export function nic(vm: TestVm, more: Partial<Nic> = {}): Nic {
  return {
    mac: vm.mac,
    interface: 'net0',
    network_uuid: network,
    nic_tag: 'sdc_overlay',
    ip: `${vm.ips[0]}/${vm.ips[0]?.includes(':') ? 64 : 24}`,
    mtu: 1400,
    vlan_id: 2,
    vnet_id: vm.vnet,
    primary: true,
    ...more,
  };
}

export function vmObject(vm: TestVm, more: Partial<VmBody> = {}): DesiredOf<'vm'> {
  const body = {
    uuid: vm.uuid,
    alias: null,
    brand: 'conger',
    ram: 256,
    state: 'running' as const,
    reboots: 0,
    firewall_enabled: false,
  };
  return {
    v: 1,
    kind: 'vm',
    key: `vm/${vm.uuid}`,
    owner_uuid: owner,
    span: [vm.node],
    body: { ...body, nics: [nic(vm)], ...more },
  };
}

export function overlayObject(
  vms: readonly TestVm[],
  underlayOf: ReadonlyMap<string, string>,
  more: Partial<DesiredOf<'overlay'>['body']> = {},
): DesiredOf<'overlay'> {
  return {
    v: 1,
    kind: 'overlay',
    key: `overlay/${more.network_uuid ?? network}`,
    owner_uuid: owner,
    span: [...new Set(vms.map((vm) => vm.node))],
    body: {
      network_uuid: network,
      vnet_id: vms[0]?.vnet ?? 5,
      vlan_id: 2,
      mtu: 1400,
      subnet: '192.168.1.0/24',
      mappings: vms.flatMap((vm) =>
        vm.ips.map((ip) => ({
          mac: vm.mac,
          ip,
          server_uuid: vm.node,
          underlay_ip: underlayOf.get(vm.node) ?? '10.99.0.1',
        })),
      ),
      ...more,
    },
  };
}

export function firewallVmObject(vm: TestVm): DesiredOf<'firewall-vm'> {
  return {
    v: 1,
    kind: 'firewall-vm',
    key: `firewall-vm/${vm.uuid}`,
    owner_uuid: owner,
    span: [vm.node],
    body: { uuid: vm.uuid, nics: [{ mac: vm.mac, ips: [...vm.ips], vnet_id: vm.vnet }] },
  };
}

export function rule(more: Partial<FirewallRuleBody> = {}): FirewallRuleBody {
  return {
    rule_uuid: randomUUID(),
    version: '1',
    action: 'allow',
    priority: 0,
    log: false,
    protocol: 'icmp',
    types: [{ type: 8, code: 0 }],
    ...more,
  };
}

export function ruleObject(body: FirewallRuleBody, span: readonly string[]): DesiredOf<'firewall-rule'> {
  const key = `firewall-rule/${body.rule_uuid}/${owner}`;
  return { v: 1, kind: 'firewall-rule', key, owner_uuid: owner, span: [...span], body };
}
