import { type Ruleset, renderDelta, renderWhole } from '../firewall/ruleset.ts';
import { type Change, type Driver, emptyKernel, type Kernel } from './types.ts';

/**
 * A kernel that exists in memory only. It holds what it was told and refuses what a real one would refuse for its
 * order (a port without its bridge, a device that is there already), so that an agent on it goes the same way.
 */
export class SimulatedDriver implements Driver {
  readonly kernel: Kernel = emptyKernel();
  firewall: Ruleset = { tables: [] };
  /** Every call, in order, as one line. */
  readonly calls: string[] = [];
  readonly #keep: number;

  /** @param keep how many calls are remembered. */
  constructor(keep = 1000) {
    this.#keep = keep;
  }

  async setup(): Promise<void> {
    this.#record('setup');
  }

  async read(): Promise<Kernel> {
    this.#record('read');
    return structuredClone(this.kernel);
  }

  async apply(changes: readonly Change[]): Promise<void> {
    for (const change of changes) {
      this.#record(`${change.op} ${change.table} ${change.key}`);
      this.#apply(change);
    }
  }

  async loadFirewall(next: Ruleset, inForce: Ruleset | null): Promise<void> {
    const text = inForce === null ? renderWhole(next) : renderDelta(inForce, next);
    if (text === '') return;
    const refusal = await this.checkFirewall(next);
    if (refusal !== null) throw new Error(refusal);
    this.#record(`nft\n${text}`);
    this.firewall = structuredClone(next);
  }

  async checkFirewall(_ruleset: Ruleset): Promise<string | null> {
    return null;
  }

  async firewallDifferences(expected: Ruleset): Promise<string[]> {
    return renderWhole(expected) === renderWhole(this.firewall) ? [] : ['firewall: differs'];
  }

  async close(): Promise<void> {}

  #apply(change: Change): void {
    const { table, op, key, row } = change;
    const rows = this.kernel[table] as Map<string, typeof row>;
    if (op === 'remove') {
      if (!rows.delete(key)) throw new Error(`no ${table} ${key}`);
      this.#cascade(change);
      return;
    }
    const replaces = table === 'forwards' || table === 'neighbours' || table === 'machines';
    if (op === 'put' && rows.has(key) && !replaces) throw new Error(`${table} ${key} is there already`);
    const bridge = 'bridge' in row ? row.bridge : null;
    if (bridge !== null && !this.kernel.bridges.has(bridge)) throw new Error(`no bridge ${bridge}`);
    if (table === 'forwards' && !this.kernel.vxlans.has(row.vxlan)) throw new Error(`no device ${row.vxlan}`);
    if (table === 'ports' && !this.kernel.machines.has(row.machine)) throw new Error(`no VM ${row.machine}`);
    rows.set(key, structuredClone(row));
  }

  /** What hangs on a device goes with it. */
  #cascade({ table, key }: Change): void {
    const drop = <R>(rows: Map<string, R>, hangs: (row: R) => boolean) => {
      for (const [name, row] of rows) if (hangs(row)) rows.delete(name);
    };
    if (table === 'vxlans') drop(this.kernel.forwards, (row) => row.vxlan === key);
    if (table === 'bridges') drop(this.kernel.neighbours, (row) => row.bridge === key);
    if (table === 'machines') drop(this.kernel.ports, (row) => row.machine === key);
  }

  #record(call: string): void {
    this.calls.push(call);
    if (this.calls.length > this.#keep) this.calls.shift();
  }
}
