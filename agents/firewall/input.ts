import type { Kernel } from '../driver/types.ts';
import type { DesiredState } from '../state/store.ts';
import { type Closed, closeRule } from './closed.ts';
import type { FirewalledVm, FirewallInput } from './compile.ts';

const vmKey = /^(?:firewall-)?vm\/([0-9a-f-]{36})$/;

function field(raw: unknown, name: string): unknown {
  return typeof raw === 'object' && raw !== null ? (raw as Record<string, unknown>)[name] : undefined;
}

function ownerOf(raw: unknown): string {
  const owner = field(raw, 'owner_uuid');
  return typeof owner === 'string' ? owner : '';
}

/** Whether an object that is not valid still says that it leaves the VM's firewall off. */
function leavesOpen(key: string, raw: unknown): boolean {
  const body = field(raw, 'body');
  if (key.startsWith('firewall-') || typeof body !== 'object' || body === null) return false;
  const enabled = field(body, 'firewall_enabled');
  return enabled === undefined || enabled === false;
}

/**
 * What the firewall is compiled from. A VM has its firewall on if either its firewall object or the VM itself says so; it then
 * covers every NIC that these name or that `kernel`, the node's plan, gives the VM, so that a NIC that was just added is
 * not open. An object that is not valid closes: the VM has its firewall on, the rule blocks (closed.ts).
 */
export function firewallInput(state: DesiredState, kernel: Kernel): FirewallInput {
  const macs = new Map<string, string[]>();
  for (const { machine, mac } of kernel.ports.values()) {
    macs.set(machine, [...(macs.get(machine) ?? []), mac]);
  }
  const vms = new Map<string, FirewalledVm>();
  const guard = (uuid: string, owner: string, nics: readonly { readonly mac: string }[]) => {
    const known = vms.get(uuid)?.macs ?? macs.get(uuid) ?? [];
    vms.set(uuid, { uuid, owner, macs: [...new Set([...known, ...nics.map(({ mac }) => mac)])] });
  };
  const closed: Closed[] = [];
  for (const { key, raw } of state.refused) {
    const uuid = vmKey.exec(key)?.[1];
    if (uuid !== undefined && !leavesOpen(key, raw)) guard(uuid, ownerOf(raw), []);
    if (!key.startsWith('firewall-rule/')) continue;
    const rule = closeRule(raw);
    if (rule !== null) closed.push(rule);
  }
  for (const { owner_uuid, body } of state.of('firewall-vm').values()) {
    guard(body.uuid, owner_uuid, body.nics);
  }
  for (const { owner_uuid, body } of state.of('vm').values()) {
    if (body.firewall_enabled || vms.has(body.uuid)) guard(body.uuid, owner_uuid, body.nics);
  }
  const rules = new Map([...state.of('firewall-rule')].map(([key, { body }]) => [key, body]));
  return { vms: [...vms.values()], rules, closed, bridges: [...kernel.bridges.keys()] };
}
