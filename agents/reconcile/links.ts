import { messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Change, Driver, Kernel } from '../driver/types.ts';
import { sequence } from './sequence.ts';

/** What a change belongs to: `vm/<uuid>`, or `bridge <name>` for a network's devices and entries. */
export type Unit = string;

export function unitOf(change: Change, ...kernels: readonly Kernel[]): Unit {
  switch (change.table) {
    case 'machines':
      return `vm/${change.key}`;
    case 'ports':
      return `vm/${change.row.machine}`;
    case 'bridges':
      return `bridge ${change.key}`;
    case 'vxlans':
    case 'neighbours':
      return `bridge ${change.row.bridge}`;
    case 'forwards': {
      const { vxlan } = change.row;
      const device = kernels.map((kernel) => kernel.vxlans.get(vxlan)).find((row) => row !== undefined);
      return `bridge ${device?.bridge ?? vxlan}`;
    }
  }
}

/** Changes by unit: networks before VMs, each unit's changes in their order. */
function byUnit(changes: readonly Change[], ...kernels: readonly Kernel[]): [Unit, Change[]][] {
  const units = new Map<Unit, Change[]>();
  for (const change of changes) {
    const unit = unitOf(change, ...kernels);
    units.set(unit, [...(units.get(unit) ?? []), change]);
  }
  return [...units].sort(([a], [b]) => Number(a.startsWith('vm/')) - Number(b.startsWith('vm/')));
}

/**
 * Keeps a node's devices, entries and VMs equal to a desired kernel. It knows what the kernel shows as long as all that it
 * did succeeded; after any error it reads the kernel back and goes on unit by unit, so that one VM or network
 * that cannot be made keeps no other from being made.
 */
export class LinkReconciler {
  readonly #driver: Driver;
  readonly #log: Logger;
  #actual: Kernel | null = null;

  constructor(driver: Driver, log: Logger) {
    this.#driver = driver;
    this.#log = log;
  }

  /** The kernel may have changed: read it before the next change. */
  forget(): void {
    this.#actual = null;
  }

  /** What the kernel shows. */
  async actual(): Promise<Kernel> {
    this.#actual ??= await this.#driver.read();
    return this.#actual;
  }

  /**
   * @param firewall puts the firewall in force; called once what has to go has gone, before anything comes. If it throws, nothing comes.
   * @returns why each unit that failed did.
   */
  async reconcile(
    desired: Kernel,
    restarts: ReadonlySet<string>,
    firewall: () => Promise<void>,
  ): Promise<Map<Unit, string>> {
    const actual = await this.actual();
    const steps = sequence(desired, actual, restarts);
    this.#actual = null;
    try {
      await this.#apply(steps.teardown);
    } catch (error) {
      return this.#oneByOne(desired, restarts, firewall, error);
    }
    await firewall();
    try {
      await this.#apply(steps.setup);
      await this.#apply(steps.tidy);
    } catch (error) {
      return this.#oneByOne(desired, new Set(), firewall, error);
    }
    this.#actual = desired;
    return new Map();
  }

  async #apply(changes: readonly Change[]): Promise<void> {
    if (changes.length > 0) await this.#driver.apply(changes);
  }

  async #oneByOne(
    desired: Kernel,
    restarts: ReadonlySet<string>,
    firewall: () => Promise<void>,
    cause: unknown,
  ): Promise<Map<Unit, string>> {
    this.#log.warn(`a change failed; reading the kernel back and going on one by one: ${messageOf(cause)}`);
    const failed = new Map<Unit, string>();
    const attempt = async (pick: (now: Kernel) => readonly Change[]) => {
      const now = await this.#driver.read();
      for (const [unit, changes] of byUnit(pick(now), desired, now)) {
        try {
          await this.#driver.apply(changes);
        } catch (error) {
          failed.set(unit, messageOf(error));
          this.#log.error({ unit }, `cannot be brought to its desired state: ${messageOf(error)}`);
        }
      }
    };
    await attempt((now) => sequence(desired, now, restarts).teardown);
    await firewall();
    await attempt((now) => sequence(desired, now, new Set()).setup);
    await attempt((now) => sequence(desired, now, new Set()).tidy);
    return failed;
  }
}
