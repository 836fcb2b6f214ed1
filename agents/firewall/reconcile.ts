import { messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import type { FirewallRuleBody } from '../contract/desired.ts';
import type { Driver } from '../driver/types.ts';
import { closeRule } from './closed.ts';
import { compile, type FirewallInput } from './compile.ts';
import type { SavedNumbers } from './numbers.ts';
import type { Ruleset } from './ruleset.ts';

/**
 * Keeps the kernel's firewall equal to what the desired state compiles to, one transaction a change. A rule that the
 * kernel refuses is replaced by what it may have been meant to block, and named; the others still come into force.
 */
export class FirewallReconciler {
  readonly #driver: Driver;
  readonly #numbers: SavedNumbers;
  readonly #log: Logger;
  /** What the kernel is known to have; null: it has to be read back. */
  #inForce: Ruleset | null = null;
  #refused = new Map<string, { rule: FirewallRuleBody; reason: string }>();

  constructor(driver: Driver, numbers: SavedNumbers, log: Logger) {
    this.#driver = driver;
    this.#numbers = numbers;
    this.#log = log;
  }

  /** The kernel may have changed: look at it again before the next change. */
  forget(): void {
    this.#inForce = null;
  }

  /**
   * Puts the firewall in force.
   * @returns the rules that the kernel refused, by desired key.
   * @throws Error if nothing could be put in force; what was in force stays.
   */
  async reconcile(input: FirewallInput): Promise<Map<string, string>> {
    for (const [key, { rule }] of this.#refused) {
      if (input.rules.get(key) !== rule) this.#refused.delete(key);
    }
    let ruleset = this.compile(input);
    try {
      await this.#load(ruleset);
    } catch (error) {
      this.#log.error(`the kernel refused the firewall: ${messageOf(error)}`);
      this.#inForce = null;
      await this.#findRefused(input);
      ruleset = this.compile(input);
      await this.#driver.loadFirewall(ruleset, null);
      this.#inForce = ruleset;
    }
    this.#numbers.retain(new Set(input.vms.map((vm) => vm.uuid)), new Set(input.bridges));
    return new Map([...this.#refused].map(([key, { reason }]) => [key, reason]));
  }

  /** What `input` compiles to, with refused rules closed. */
  compile(input: FirewallInput): Ruleset {
    if (this.#refused.size === 0) return compile(input, this.#numbers);
    const rules = new Map([...input.rules].filter(([key]) => !this.#refused.has(key)));
    const closed = [...this.#refused.values()].flatMap(({ rule }) => closeRule({ body: rule }) ?? []);
    return compile({ ...input, rules, closed: [...input.closed, ...closed] }, this.#numbers);
  }

  async #load(ruleset: Ruleset): Promise<void> {
    if (this.#numbers.unsaved) await this.#numbers.save();
    if (this.#inForce === null) {
      const differences = await this.#driver.firewallDifferences(ruleset);
      if (differences.length > 0) {
        this.#log.info(
          { differences: differences.slice(0, 20) },
          'the firewall in force differs and is replaced',
        );
        await this.#driver.loadFirewall(ruleset, null);
      }
    } else {
      await this.#driver.loadFirewall(ruleset, this.#inForce);
    }
    this.#inForce = ruleset;
  }

  /** Tries each rule by itself. */
  async #findRefused(input: FirewallInput): Promise<void> {
    for (const [key, rule] of input.rules) {
      const reason = await this.#driver.checkFirewall(
        compile({ ...input, rules: new Map([[key, rule]]), closed: [] }, this.#numbers),
      );
      if (reason === null) continue;
      this.#log.error({ key, reason }, 'the kernel refuses a rule: it fails closed');
      this.#refused.set(key, { rule, reason: `the kernel refuses it: ${reason}` });
    }
  }
}
