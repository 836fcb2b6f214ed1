import { appendFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Failpoint, isFailpoint } from './failpoint-names.ts';

/**
 * Named places where tests make this process fail. Nothing is armed unless CONGER_FAILPOINTS says so; then passing one
 * costs one look at a variable.
 *
 * A plan is a list, separated by commas, of `name=action@n` (at the n-th passing) or `name=action%p` (at each passing
 * with probability p; `seed=N` sets what is drawn from). Actions:
 *
 *   kill        SIGKILL to this process
 *   stop        SIGSTOP to this process; whoever watches it lets it go on
 *   error       an error as of a broken connection
 *   delay:MS    a pause; where the place cannot wait, all of the process pauses
 */

let armed: Armed | undefined;

/** Passes a failpoint. Rejects where the plan wants an error. */
export function failpoint(name: Failpoint): Promise<void> | undefined {
  return armed === undefined ? undefined : armed.pass(name);
}

/** Passes a failpoint in a place that cannot wait. @throws FailpointError where the plan wants an error */
export function failpointNow(name: Failpoint): void {
  if (armed !== undefined) armed.passNow(name);
}

/**
 * Arms the failpoints of this process; an empty plan disarms them.
 * @param trace file that gets a line for the first passing of each failpoint (its name), and for each fault (its name,
 * the action and the passing's number)
 * @throws Error where the plan does not parse, or names what is no failpoint
 */
export function armFailpoints(plan: string, trace = ''): void {
  armed = plan === '' && trace === '' ? undefined : new Armed(plan, trace);
}

/** What a failpoint throws. */
export class FailpointError extends Error {
  readonly code = 'ECONNRESET';

  constructor(name: Failpoint) {
    super(`connection reset, as the failpoint ${name} wants it`);
    this.name = 'FailpointError';
  }
}

interface Trigger {
  readonly action: 'kill' | 'stop' | 'error' | 'delay';
  readonly ms: number;
  readonly when: { readonly at: number } | { readonly probability: number };
}

const form = /^([a-z.-]+)=(kill|stop|error|delay:(\d+))(?:@(\d+)|%(\d*\.?\d+))?$/;

class Armed {
  readonly #trace: string;
  readonly #triggers = new Map<Failpoint, Trigger[]>();
  readonly #passed = new Map<Failpoint, number>();
  #random = 1;

  constructor(plan: string, trace: string) {
    this.#trace = trace;
    for (const part of plan.split(',').filter(Boolean)) {
      if (/^seed=\d+$/.test(part)) this.#random = Number(part.slice('seed='.length)) || 1;
      else this.#add(part);
    }
  }

  async pass(name: Failpoint): Promise<void> {
    const trigger = this.#due(name);
    if (trigger === undefined) return;
    if (trigger.action === 'delay') await sleep(trigger.ms);
    else act(trigger.action, name);
  }

  passNow(name: Failpoint): void {
    const trigger = this.#due(name);
    if (trigger === undefined) return;
    if (trigger.action !== 'delay') act(trigger.action, name);
    else Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, trigger.ms);
  }

  #add(part: string): void {
    const [, name, word, ms, at, probability] = form.exec(part) ?? [];
    if (name === undefined || word === undefined) throw new Error(`not a failpoint's plan: ${part}`);
    if (!isFailpoint(name)) throw new Error(`there is no failpoint ${name}`);
    const when = probability === undefined ? { at: Number(at ?? 1) } : { probability: Number(probability) };
    const action = word.split(':')[0] as Trigger['action'];
    const triggers = this.#triggers.get(name) ?? [];
    this.#triggers.set(name, [...triggers, { action, ms: Number(ms ?? 0), when }]);
  }

  /** Counts a passing; answers what is to happen at it. */
  #due(name: Failpoint): Trigger | undefined {
    const n = (this.#passed.get(name) ?? 0) + 1;
    this.#passed.set(name, n);
    if (n === 1) this.#note(name);
    const due = this.#triggers
      .get(name)
      ?.find(({ when }) => ('at' in when ? when.at === n : this.#draw() < when.probability));
    if (due !== undefined) this.#note(`${name} ${due.action} ${n}`);
    return due;
  }

  /** At once, because the process may end with the next instruction. */
  #note(line: string): void {
    if (this.#trace !== '') appendFileSync(this.#trace, `${line}\n`);
  }

  /** In [0, 1), xorshift. */
  #draw(): number {
    let x = this.#random;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#random = x;
    return (x >>> 0) / 2 ** 32;
  }
}

function act(action: 'kill' | 'stop' | 'error', name: Failpoint): void {
  if (action === 'error') throw new FailpointError(name);
  process.kill(process.pid, action === 'kill' ? 'SIGKILL' : 'SIGSTOP');
}
