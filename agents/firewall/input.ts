import type { DesiredState } from '../state/store.ts';
import { type Closed, closeRule } from './closed.ts';
import type { FirewalledVm, FirewallInput } from './compile.ts';

const vmKey = /^firewall-vm\/([0-9a-f-]{36})$/;

function ownerOf(raw: unknown): string {
  const owner = typeof raw === 'object' && raw !== null && 'owner_uuid' in raw ? raw.owner_uuid : null;
  return typeof owner === 'string' ? owner : '';
}

/**
 * What the firewall is compiled from. A VM's firewall covers every NIC that either its firewall object or the VM itself
 * names, so that a NIC that was just added is not open. An object that is not valid closes: the VM has its firewall on, the
 * rule blocks (closed.ts).
 */
export function firewallInput(state: DesiredState, bridges: readonly string[]): FirewallInput {
  const machines = state.of('vm');
  const vms = new Map<string, FirewalledVm>();
  const add = (uuid: string, owner: string, macs: readonly string[]) => {
    const nics = machines.get(`vm/${uuid}`)?.body.nics ?? [];
    vms.set(uuid, { uuid, owner, macs: [...new Set([...macs, ...nics.map((nic) => nic.mac)])] });
  };
  for (const { owner_uuid, body } of state.of('firewall-vm').values()) {
    add(
      body.uuid,
      owner_uuid,
      body.nics.map((nic) => nic.mac),
    );
  }
  const closed: Closed[] = [];
  for (const { key, raw } of state.refused) {
    const uuid = vmKey.exec(key)?.[1];
    if (uuid !== undefined) add(uuid, ownerOf(raw), []);
    if (!key.startsWith('firewall-rule/')) continue;
    const rule = closeRule(raw);
    if (rule !== null) closed.push(rule);
  }
  const rules = new Map([...state.of('firewall-rule')].map(([key, { body }]) => [key, body]));
  return { vms: [...vms.values()], rules, closed, bridges };
}
