import { messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Driver } from '../driver/types.ts';
import { firewallInput } from '../firewall/input.ts';
import type { SavedNumbers } from '../firewall/numbers.ts';
import { FirewallReconciler } from '../firewall/reconcile.ts';
import { Backoff } from '../liveness/backoff.ts';
import { agentMetrics } from '../metrics.ts';
import type { NodeFacts } from '../overlay/plan.ts';
import type { DesiredState } from '../state/store.ts';
import type { Ledger } from '../vms/ledger.ts';
import { LinkReconciler } from './links.ts';
import { type NodePlan, planNode } from './plan.ts';
import { describe, sequence } from './sequence.ts';
import { Timings } from './timings.ts';

export interface Failed {
  readonly key: string;
  readonly reason: string;
}

export interface ReconcilerOptions {
  readonly state: DesiredState;
  readonly driver: Driver;
  readonly numbers: SavedNumbers;
  readonly ledger: Ledger;
  readonly node: NodeFacts;
  readonly prefix: string;
  readonly log: Logger;
  /** Milliseconds between looks at the kernel without any cause. */
  readonly auditMs: number;
  /** The kernel shows `position`, but for `failed`. */
  readonly onApplied: (position: string, failed: readonly Failed[]) => void;
  /** The ledger has news. */
  readonly onLedger: () => void;
}

/**
 * Makes the kernel look like the desired state. It takes no event: `trigger` says only that it should look again, and
 * it always goes by all of the state. One run at a time; triggers that come while it runs are served by one more run. What
 * fails is tried again, with growing pauses, from a fresh look at the kernel.
 */
export class Reconciler {
  readonly timings = new Timings();
  readonly #options: ReconcilerOptions;
  readonly #links: LinkReconciler;
  readonly #firewall: FirewallReconciler;
  readonly #retry = new Backoff(500, 60_000);
  readonly #audit: NodeJS.Timeout;
  #plan: { readonly version: number; readonly plan: NodePlan } | null = null;
  #set = false;
  #wanted = false;
  #running: Promise<void> | null = null;
  /** What is left of the runs that are over, in their order. */
  #finishing: Promise<void> = Promise.resolve();
  #turn: Promise<unknown> = Promise.resolve();
  #retrying: NodeJS.Timeout | null = null;
  #closed = false;
  #applied = '';
  #failed: readonly Failed[] = [];

  constructor(options: ReconcilerOptions) {
    this.#options = options;
    this.#links = new LinkReconciler(options.driver, options.log);
    this.#firewall = new FirewallReconciler(options.driver, options.numbers, options.log);
    this.#audit = setInterval(() => this.lookAgain(), options.auditMs);
    this.#audit.unref();
  }

  /** The last position that the kernel shows; '' before the first. */
  get applied(): string {
    return this.#applied;
  }

  get failed(): readonly Failed[] {
    return this.#failed;
  }

  /** Looks at the desired state again. */
  trigger(): void {
    this.#wanted = true;
    if (this.#closed) return;
    this.#running ??= this.#loop().finally(() => {
      this.#running = null;
    });
  }

  /** Looks at the desired state and the kernel again. */
  lookAgain(): void {
    this.#forget();
    this.trigger();
  }

  /** Resolves once no run is under way or wanted, and what was done is on the disk and told. */
  async idle(): Promise<void> {
    let finished: Promise<void> | null = null;
    while (this.#running !== null || finished !== this.#finishing) {
      await this.#running;
      finished = this.#finishing;
      await finished;
    }
  }

  /** Reads the kernel back and tells how it differs from what it should be, one line each. Changes nothing. */
  async verify(): Promise<string[]> {
    return this.#serially(async () => {
      const { driver, state, node, prefix } = this.#options;
      if (!state.known) return ['what the node is to be is not known yet'];
      const actual = await driver.read();
      const { kernel } = planNode(state, actual, node, prefix);
      const expected = this.#firewall.compile(firewallInput(state, kernel));
      return [
        ...describe(sequence(kernel, actual, new Set())),
        ...(await driver.firewallDifferences(expected)),
      ];
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#audit);
    if (this.#retrying !== null) clearTimeout(this.#retrying);
    await this.idle();
  }

  #forget(): void {
    this.#links.forget();
    this.#firewall.forget();
    this.#plan = null;
  }

  #serially<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.catch(() => {}).then(work);
    this.#turn = turn;
    return turn;
  }

  async #loop(): Promise<void> {
    while (this.#wanted && !this.#closed) {
      this.#wanted = false;
      await this.#serially(() => this.#once());
    }
  }

  async #once(): Promise<void> {
    const { state, log } = this.#options;
    // Before anything is known nothing may be taken for unwanted.
    if (!state.known) return;
    const taken = this.timings.take();
    const { position } = state;
    const failed = new Map(state.refused.map(({ key, reason }) => [key, reason]));
    const stop = agentMetrics.reconcileSeconds.startTimer();
    // The kernel call starts first; the state is written while it runs.
    const saved = new Promise(setImmediate)
      .then(() => state.save())
      .then(
        () => null,
        (error: unknown) => ({ error }),
      );
    let programmed = false;
    try {
      await this.#program(failed);
      programmed = true;
      for (const timing of this.timings.applied(taken)) {
        agentMetrics.kernelSeconds.observe((timing.applied - timing.received) / 1000);
        log.debug({ ...timing }, 'a change is in the kernel');
      }
      agentMetrics.applied.inc(taken.length);
      stop({ result: failed.size === 0 ? 'ok' : 'partly' });
    } catch (error) {
      this.timings.giveBack(taken);
      log.error({ err: error }, `cannot reconcile: ${messageOf(error)}`);
      stop({ result: 'error' });
      this.#retryLater();
    }
    // The disk is waited for before the position is called applied, and not before the next change is programmed.
    this.#finishing = this.#finishing.then(async () => {
      const trouble = await saved;
      if (!programmed) return;
      if (trouble === null) return this.#finish(position, failed);
      log.error({ err: trouble.error }, `cannot save the desired state: ${messageOf(trouble.error)}`);
      this.#retryLater();
    });
  }

  #finish(position: string, failed: ReadonlyMap<string, string>): void {
    const { state, onApplied } = this.#options;
    this.#failed = [...failed].map(([key, reason]) => ({ key, reason }));
    this.#applied = position;
    agentMetrics.failed.set(failed.size);
    agentMetrics.objects.set(state.keys.length);
    const invalid = new Set(state.refused.map(({ key }) => key));
    // An object that is not valid does not get better by itself; everything else may.
    if ([...failed.keys()].some((key) => !invalid.has(key))) this.#retryLater();
    else this.#retry.reset();
    onApplied(position, this.#failed);
  }

  #retryLater(): void {
    if (this.#retrying !== null || this.#closed) return;
    this.#retrying = setTimeout(() => {
      this.#retrying = null;
      this.lookAgain();
    }, this.#retry.take());
    this.#retrying.unref();
  }

  /** Brings the kernel to the desired state; what cannot be brought there is added to `failed`. */
  async #program(failed: Map<string, string>): Promise<void> {
    const { state, driver, ledger, node, prefix } = this.#options;
    if (!this.#set) {
      await driver.setup();
      this.#set = true;
    }
    const version = state.versions.links;
    let cached = this.#plan?.version === version ? this.#plan.plan : null;
    const plan = cached ?? planNode(state, await this.#links.actual(), node, prefix);
    const firewall = async () => {
      const refused = await this.#firewall.reconcile(firewallInput(state, plan.kernel));
      for (const [key, reason] of refused) failed.set(key, reason);
    };
    for (const [key, reason] of plan.failures) failed.set(key, reason);
    if (cached !== null) {
      await firewall();
      return;
    }
    this.#plan = null;
    for (const [uuid, requestId] of state.takeDeleted()) ledger.expect(uuid, requestId);
    const vms = state.of('vm');
    const before = await this.#links.actual();
    const restarts = new Set<string>();
    for (const { body } of vms.values()) {
      const done = ledger.get(body.uuid)?.reboots ?? body.reboots;
      if (body.state === 'running' && body.reboots > done && before.machines.get(body.uuid)?.running) {
        restarts.add(body.uuid);
      }
    }
    let troubles: Map<string, string>;
    try {
      troubles = await this.#links.reconcile(plan.kernel, restarts, firewall);
    } catch (error) {
      // What is in the kernel now is not known, nor what was torn down before the error.
      this.#forget();
      throw error;
    }
    for (const [unit, reason] of troubles) {
      const keys = unit.startsWith('bridge ') ? (plan.keysOfBridge.get(unit.slice(7)) ?? [unit]) : [unit];
      for (const key of keys) failed.set(key, reason);
    }
    if (troubles.size === 0) cached = plan;
    this.#plan = cached === null ? null : { version, plan: cached };
    await this.#keepLedger(plan, failed, before.machines.keys());
  }

  async #keepLedger(
    plan: NodePlan,
    failed: ReadonlyMap<string, string>,
    before: Iterable<string>,
  ): Promise<void> {
    const { state, ledger } = this.#options;
    const vms = state.of('vm');
    const bodies = [...vms.values()].map(({ body }) => body);
    const asked = bodies.filter((body) => body.state === 'destroyed').map(({ uuid }) => uuid);
    let news = ledger.ask(new Set(asked));
    for (const [key, { body }] of vms) {
      if (failed.has(key)) continue;
      news = ledger.note(body.uuid, body.state, body.reboots, state.requestIdOf(key)) || news;
    }
    for (const uuid of new Set([...ledger.entries.keys(), ...before])) {
      const key = `vm/${uuid}`;
      if (vms.has(key) || plan.kernel.machines.has(uuid) || failed.has(key)) continue;
      const known = ledger.get(uuid);
      news = ledger.note(uuid, 'destroyed', known?.reboots ?? 0, known?.requestId ?? null) || news;
    }
    if (!news) return;
    await ledger.save();
    this.#options.onLedger();
  }
}
