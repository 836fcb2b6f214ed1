import type { Desired, FirewallRuleBody } from '../../../agents/contract/desired.ts';
import type { VmRecord } from '../../common/records.ts';
import type { ParsedRule, RuleSide } from '../models/rule.ts';
import { addressesOf, isLive, sideNames } from '../models/targets.ts';

type Protocols = Pick<FirewallRuleBody, 'ports' | 'types'>;

/**
 * What the nodes must have so that one owner's firewall holds: a pure function of the owner's VMs and of the rules
 * (the owner's and the global ones). A rule never crosses an owner: a global rule is applied owner by owner.
 */
export function computeFirewall(
  owner: string,
  vms: readonly VmRecord[],
  rules: readonly ParsedRule[],
): Desired[] {
  const live = vms.filter(isLive);
  const guarded = live.filter((vm) => vm.firewall_enabled === true);
  const desired: Desired[] = guarded.map((vm) => desiredVm(owner, vm));
  for (const rule of rules) {
    if (!rule.enabled) continue;
    const object = desiredRule(owner, rule, live, guarded);
    if (object !== undefined) desired.push(object);
  }
  return desired;
}

function desiredVm(owner: string, vm: VmRecord): Desired {
  return {
    v: 1,
    kind: 'firewall-vm',
    key: `firewall-vm/${vm.uuid}`,
    owner_uuid: owner,
    span: [vm.server_uuid!],
    body: {
      uuid: vm.uuid,
      nics: vm.nics.map((nic) => ({
        mac: nic.mac,
        ips: addressesOf({ ...vm, nics: [nic] }),
        ...vnetOf(nic),
      })),
    },
  };
}

/** On a fabric, a NIC's tag names its vnet: `sdc_overlay/<vnet id>`. */
function vnetOf(nic: VmRecord['nics'][number]): { vnet_id?: number } {
  const vnet = typeof nic.nic_tag === 'string' ? /\/(\d+)$/.exec(nic.nic_tag)?.[1] : undefined;
  return vnet === undefined ? {} : { vnet_id: Number(vnet) };
}

function desiredRule(
  owner: string,
  rule: ParsedRule,
  live: readonly VmRecord[],
  guarded: readonly VmRecord[],
): Desired | undefined {
  const incoming = guarded.filter((vm) => sideNames(rule.to, vm));
  const outgoing = guarded.filter((vm) => sideNames(rule.from, vm));
  const sources = peers(rule.from, live);
  const targets = peers(rule.to, live);
  const receives = incoming.length > 0 && sources.length > 0;
  const sends = outgoing.length > 0 && targets.length > 0;
  if (!receives && !sends) return undefined;
  const affected = [...(receives ? incoming : []), ...(sends ? outgoing : [])];
  return {
    v: 1,
    kind: 'firewall-rule',
    key: `firewall-rule/${rule.uuid}/${owner}`,
    owner_uuid: owner,
    span: [...new Set(affected.map((vm) => vm.server_uuid!))].sort(),
    body: {
      rule_uuid: rule.uuid,
      version: rule.version,
      action: rule.action,
      priority: rule.priority,
      log: rule.log,
      protocol: rule.protocol,
      ...protocols(rule),
      ...(receives ? { in: { vms: uuids(incoming), peers: sources } } : {}),
      ...(sends ? { out: { vms: uuids(outgoing), peers: targets } } : {}),
    },
  };
}

function uuids(vms: readonly VmRecord[]): string[] {
  return vms.map((vm) => vm.uuid).sort();
}

function peers(side: RuleSide, live: readonly VmRecord[]): 'any' | string[] {
  if (side.wildcards.includes('any')) return 'any';
  const addresses = live.filter((vm) => sideNames(side, vm)).flatMap(addressesOf);
  return [...new Set([...side.ips, ...side.subnets, ...addresses])].sort();
}

function protocols(rule: ParsedRule): Protocols {
  if (rule.ports !== undefined) {
    if (rule.ports.includes('all')) return { ports: 'all' };
    return {
      ports: rule.ports.map((port) =>
        typeof port === 'object'
          ? { start: port.start, end: port.end }
          : { start: Number(port), end: Number(port) },
      ),
    };
  }
  if (rule.types !== undefined) {
    if (rule.types.includes('all')) return { types: 'all' };
    return {
      types: rule.types.map((entry) => {
        const [type, code] = entry.split(':');
        return code === undefined ? { type: Number(type) } : { type: Number(type), code: Number(code) };
      }),
    };
  }
  return {};
}
