import { fabricBridge } from '../driver/names.ts';
import { emptyKernel, type Kernel } from '../driver/types.ts';
import { type NodeFacts, planOverlays } from '../overlay/plan.ts';
import type { DesiredState } from '../state/store.ts';
import { type Failures, planMachines } from '../vms/plan.ts';

export interface NodePlan {
  /** What the kernel should show. */
  readonly kernel: Kernel;
  /** What cannot be done, by desired key. */
  readonly failures: Failures;
  /** Desired keys that a bridge stands for. */
  readonly keysOfBridge: ReadonlyMap<string, readonly string[]>;
}

/**
 * What a node's kernel should show, from the desired state and what the kernel shows now. The latter decides only in doubt: what
 * belongs to a VM or overlay whose object is not valid stays as it is.
 */
export function planNode(state: DesiredState, actual: Kernel, node: NodeFacts, prefix: string): NodePlan {
  const kernel = emptyKernel();
  const failures: Failures = new Map();
  const overlays = state.of('overlay');
  planOverlays(kernel, overlays, node);
  planMachines(kernel, state.of('vm'), prefix, failures);

  const doubtful = [...state.refused.map(({ key }) => key), ...failures.keys()];
  for (const key of doubtful) {
    if (key.startsWith('vm/')) holdMachine(kernel, actual, key.slice(3));
  }
  if (state.refused.some(({ key }) => key.startsWith('overlay/'))) holdOverlays(kernel, actual);

  const keysOfBridge = new Map<string, string[]>();
  for (const [key, { body }] of overlays) {
    const bridge = fabricBridge(body.vnet_id, body.vlan_id);
    keysOfBridge.set(bridge, [...(keysOfBridge.get(bridge) ?? []), key]);
  }
  return { kernel, failures, keysOfBridge };
}

function holdMachine(kernel: Kernel, actual: Kernel, uuid: string): void {
  const machine = actual.machines.get(uuid);
  if (machine !== undefined) kernel.machines.set(uuid, machine);
  for (const [name, row] of actual.ports) {
    if (row.machine !== uuid || kernel.ports.has(name)) continue;
    kernel.ports.set(name, row);
    const bridge = actual.bridges.get(row.bridge);
    if (bridge !== undefined && !kernel.bridges.has(row.bridge)) kernel.bridges.set(row.bridge, bridge);
  }
}

/** Which devices an unreadable overlay made cannot be told, so none is removed. */
function holdOverlays(kernel: Kernel, actual: Kernel): void {
  const keep = <R>(wanted: Map<string, R>, shown: ReadonlyMap<string, R>) => {
    for (const [key, row] of shown) if (!wanted.has(key)) wanted.set(key, row);
  };
  keep(kernel.bridges, actual.bridges);
  keep(kernel.vxlans, actual.vxlans);
  keep(kernel.forwards, actual.forwards);
  keep(kernel.neighbours, actual.neighbours);
}
