import type { Ruleset } from '../firewall/ruleset.ts';

/**
 * What a node's kernel shows, as flat tables of plain rows: the same shape says what it should show, so that the two can
 * be compared row by row. Every row of a desired kernel is complete; a row that was read back and is not whole (a port
 * that is down, a device with other options) says so in a field, and so differs.
 */
export interface Kernel {
  /** By device name. */
  readonly bridges: Map<string, BridgeRow>;
  /** By device name. */
  readonly vxlans: Map<string, VxlanRow>;
  /** Where a remote MAC is; by `<vxlan> <mac>`. */
  readonly forwards: Map<string, ForwardRow>;
  /** What the bridge answers ARP and neighbour solicitations with; by `<bridge> <ip>`. */
  readonly neighbours: Map<string, NeighbourRow>;
  /** By VM UUID. */
  readonly machines: Map<string, MachineRow>;
  /** The node's end of each VM's NIC; by device name. */
  readonly ports: Map<string, PortRow>;
}

export interface BridgeRow {
  readonly up: boolean;
}

export interface VxlanRow {
  readonly vni: number;
  /** UDP port that it receives on and sends to. */
  readonly port: number;
  readonly local: string;
  readonly bridge: string;
  /** Options as they must be: no learning on device and port, neighbours suppressed, up. */
  readonly sound: boolean;
}

export interface ForwardRow {
  readonly vxlan: string;
  readonly mac: string;
  /** Underlay address of the node that has the MAC; '' where only the bridge's half of the entry is there. */
  readonly remote: string;
  /** Whether the bridge's half of the entry (MAC to port) is there. */
  readonly bridged: boolean;
}

export interface NeighbourRow {
  readonly bridge: string;
  readonly ip: string;
  readonly mac: string;
}

export interface MachineRow {
  readonly namespace: string;
  readonly running: boolean;
}

export interface PortRow {
  /** UUID of the VM; '' where the VM's end is gone. */
  readonly machine: string;
  readonly interface: string;
  readonly mac: string;
  readonly bridge: string;
  readonly mtu: number;
  /** With prefix length. */
  readonly ip: string;
  readonly gateway: string | null;
  readonly up: boolean;
}

export type TableName = keyof Kernel;
export type RowOf<T extends TableName> = Kernel[T] extends Map<string, infer R> ? R : never;

/**
 * One step towards the desired kernel: `put` makes the row, `set` corrects what is there under its key already,
 * `remove` removes it (`row` is then what the kernel shows now).
 */
export type Change = {
  [T in TableName]: {
    readonly table: T;
    readonly op: 'put' | 'set' | 'remove';
    readonly key: string;
    readonly row: RowOf<T>;
  };
}[TableName];

export function emptyKernel(): Kernel {
  return {
    bridges: new Map(),
    vxlans: new Map(),
    forwards: new Map(),
    neighbours: new Map(),
    machines: new Map(),
    ports: new Map(),
  };
}

/**
 * The calls that an agent makes to a kernel. Nothing here decides anything: what to do, and in which order, comes from
 * the reconciler.
 */
export interface Driver {
  /** Makes what every node has (its namespace, its underlay address). May be repeated. */
  setup(): Promise<void>;
  /** Reads all of what is programmed back. */
  read(): Promise<Kernel>;
  /** Does the changes, in dependency order as given; on an error an unknown part of them has been done. */
  apply(changes: readonly Change[]): Promise<void>;
  /** Puts a ruleset in force in one transaction. `inForce` is what the kernel is known to have; null: anything. */
  loadFirewall(next: Ruleset, inForce: Ruleset | null): Promise<void>;
  /** Why the kernel would not take the ruleset, or null if it would. Changes nothing. */
  checkFirewall(ruleset: Ruleset): Promise<string | null>;
  /** What distinguishes the firewall in force from `expected`, one line each. */
  firewallDifferences(expected: Ruleset): Promise<string[]>;
  /** Ends what the driver itself keeps running. The kernel stays as it is. */
  close(): Promise<void>;
}
