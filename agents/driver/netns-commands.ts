import { type NodeNames, ownMac } from './names.ts';
import type { Change } from './types.ts';

/** Lines for one run of `ip -batch` or `bridge -batch` in one namespace. */
export interface Batch {
  readonly tool: 'ip' | 'bridge';
  readonly namespace: string;
  readonly lines: string[];
}

const underlayMtu = 9000;
/** VXLAN over IPv4 adds 50 octets. */
const vxlanMtu = underlayMtu - 50;

/**
 * Turns changes into batches: in the node's namespace first the devices and neighbours, then the forwarding entries,
 * then each VM's own side. The lines of one batch keep the order of the changes.
 * @param namespaceOf tells the namespace of a VM.
 */
export function toBatches(
  names: NodeNames,
  changes: readonly Change[],
  namespaceOf: (vm: string) => string,
): Batch[] {
  const links: string[] = [];
  const entries: string[] = [];
  const inside = new Map<string, string[]>();
  const within = (vm: string, ...lines: string[]) => {
    const namespace = namespaceOf(vm);
    inside.set(namespace, [...(inside.get(namespace) ?? []), ...lines]);
  };
  for (const { table, op, key, row } of changes) {
    switch (table) {
      case 'bridges':
        if (op === 'remove') links.push(`link del ${key}`);
        // An address of its own: one that it takes from its ports changes with them, and each change drops the neighbours.
        if (op === 'put') {
          const mac = ownMac(key, names.node);
          links.push(
            `link add ${key} address ${mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`,
          );
        }
        if (op !== 'remove') links.push(`link set ${key} mtu ${underlayMtu} addrgenmode none up`);
        break;
      case 'vxlans':
        if (op === 'remove') {
          links.push(`link del ${key}`);
          break;
        }
        links.push(
          `link add ${key} mtu ${vxlanMtu} type vxlan id ${row.vni} local ${row.local} dstport ${row.port} nolearning`,
          `link set ${key} addrgenmode none master ${row.bridge}`,
          `link set ${key} type bridge_slave neigh_suppress on learning off`,
          `link set ${key} up`,
        );
        break;
      case 'forwards':
        if (op === 'remove') {
          if (row.remote !== '') entries.push(`fdb del ${row.mac} dev ${row.vxlan} dst ${row.remote} self`);
          if (row.bridged) entries.push(`fdb del ${row.mac} dev ${row.vxlan} master`);
          break;
        }
        entries.push(
          `fdb replace ${row.mac} dev ${row.vxlan} dst ${row.remote} self permanent`,
          `fdb replace ${row.mac} dev ${row.vxlan} master static`,
        );
        break;
      case 'neighbours':
        links.push(
          op === 'remove'
            ? `neigh del ${row.ip} dev ${row.bridge}`
            : `neigh replace ${row.ip} lladdr ${row.mac} dev ${row.bridge} nud permanent`,
        );
        break;
      case 'machines':
        if (op !== 'remove') within(key, `link set lo ${row.running ? 'up' : 'down'}`);
        break;
      case 'ports':
        if (op === 'remove') {
          links.push(`link del ${key}`);
          break;
        }
        links.push(
          `link add ${key} mtu ${row.mtu} type veth peer name ${row.interface} mtu ${row.mtu} address ${row.mac} netns ${namespaceOf(row.machine)}`,
          `link set ${key} addrgenmode none master ${row.bridge} up`,
        );
        within(
          row.machine,
          `link set ${row.interface} up`,
          `addr replace ${row.ip} dev ${row.interface}${row.ip.includes(':') ? ' nodad' : ''}`,
        );
        if (row.gateway !== null) {
          within(row.machine, `route replace default via ${row.gateway} dev ${row.interface}`);
        }
        break;
    }
  }
  const batches: Batch[] = [
    { tool: 'ip', namespace: names.node, lines: links },
    { tool: 'bridge', namespace: names.node, lines: entries },
    ...[...inside].map(([namespace, lines]): Batch => ({ tool: 'ip', namespace, lines })),
  ];
  return batches.filter(({ lines }) => lines.length > 0);
}
