import { mkdir } from 'node:fs/promises';
import { run } from './exec.ts';
import { type NodeNames, ownMac } from './names.ts';

/** Where the namespaces of every agent on this machine are written down. */
export const runFolder = '/run/conger';

/**
 * Every namespace is made under one lock, which the kernel gives back however its holder ends; so it does not matter
 * which agent comes first, or whether one is killed half way.
 */
const prelude = `set -e
exec 9>${runFolder}/lock
flock 9
ensure_ns() {
  if [ -e "/run/netns/$1" ] && ip -n "$1" link show lo >/dev/null 2>&1; then return 0; fi
  ip netns del "$1" 2>/dev/null || true
  ip netns add "$1" 9>&-
}
`;

const nodeScript = `${prelude}
underlay=$1 node=$2 port=$3 mac=$4 address=$5
ensure_ns "$underlay"
ip -n "$underlay" link show switch >/dev/null 2>&1 ||
  ip -n "$underlay" link add switch type bridge stp_state 0 forward_delay 0
ip -n "$underlay" link set switch mtu 9000 addrgenmode none up
ensure_ns "$node"
ip -n "$node" link set lo up
if ! ip -n "$node" link show underlay >/dev/null 2>&1; then
  ip -n "$underlay" link del "$port" 2>/dev/null || true
  ip -n "$underlay" link add "$port" mtu 9000 type veth peer name underlay mtu 9000 address "$mac" netns "$node"
fi
ip -n "$underlay" link set "$port" addrgenmode none master switch up
ip -n "$node" addr replace "$address" dev underlay
ip -n "$node" link set underlay up
[ -d /proc/sys/net/bridge ] || modprobe br_netfilter 2>/dev/null || true
if ! nsenter --net="/run/netns/$node" sh -c 'cd /proc/sys/net/bridge && echo 1 >bridge-nf-call-iptables && echo 1 >bridge-nf-call-ip6tables && echo 0 >bridge-nf-call-arptables'; then
  echo "the kernel module br_netfilter is needed for the firewall" >&2
  exit 1
fi
nsenter --net="/run/netns/$underlay" sh -c 'cd /proc/sys/net/bridge && echo 0 >bridge-nf-call-iptables && echo 0 >bridge-nf-call-ip6tables'
`;

/** Makes the shared underlay switch, the node's namespace and the veth between them. May be repeated. */
export async function setupNode(names: NodeNames, nodeUuid: string, underlay: string): Promise<void> {
  await mkdir(runFolder, { recursive: true });
  const port = `n${nodeUuid.slice(0, 8)}`;
  await run('sh', [
    '-c',
    nodeScript,
    'sh',
    names.underlay,
    names.node,
    port,
    ownMac(nodeUuid, 'underlay'),
    underlay,
  ]);
}

/** Makes namespaces that are not there yet. */
export async function ensureNamespaces(namespaces: readonly string[]): Promise<void> {
  await run('sh', ['-c', `${prelude}\nfor ns in "$@"; do ensure_ns "$ns"; done`, 'sh', ...namespaces]);
}
