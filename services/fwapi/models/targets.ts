import type { VmRecord } from '../../common/records.ts';
import type { ParsedRule, RuleSide } from './rule.ts';

/** Whether a VM's tags have the one that a rule names: by name alone, or by name and value. */
export function hasTag(vm: VmRecord, tag: string | readonly [string, string]): boolean {
  const [key, value] = typeof tag === 'string' ? [tag, undefined] : tag;
  const own = vm.tag_map[key];
  return own !== undefined && (value === undefined || String(own) === value);
}

/** Whether one side of a rule names the VM: all VMs, its UUID, or a tag of it. `any` and addresses name no VM. */
export function sideNames(side: RuleSide, vm: VmRecord): boolean {
  return (
    side.wildcards.includes('vmall') || side.vms.includes(vm.uuid) || side.tags.some((tag) => hasTag(vm, tag))
  );
}

export function ruleNames(rule: ParsedRule, vm: VmRecord): boolean {
  return sideNames(rule.from, vm) || sideNames(rule.to, vm);
}

/** The VM's addresses, without prefix lengths. */
export function addressesOf(vm: VmRecord): string[] {
  const all = vm.nics.flatMap((nic) => nic.ips ?? (nic.ip === undefined ? [] : [nic.ip]));
  return [...new Set(all.map((ip) => ip.split('/')[0]!).filter((ip) => ip !== 'dhcp' && ip !== 'addrconf'))];
}

/** Whether the VM can send or receive at all: it is placed, and neither gone nor failed. */
export function isLive(vm: VmRecord): boolean {
  return vm.server_uuid !== null && !['destroyed', 'failed', 'incomplete'].includes(vm.state);
}
