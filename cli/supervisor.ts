import { setTimeout as sleepFor } from 'node:timers/promises';
import { messageOf } from '../runtime/errors.ts';

/** A process that is running. */
export interface Running {
  readonly pid: number;
  /** Resolves once it serves; never when it ends before. */
  readonly ready: Promise<void>;
  /** Resolves when it has ended, with how. */
  readonly ended: Promise<string>;
  /** Asks it to end. */
  stop(): void;
  kill(signal: NodeJS.Signals): void;
}

/** One process of the datacenter, as it is started each time. */
export interface Part {
  /** `<service><number>`. */
  readonly name: string;
  readonly service: string;
  /** Parts of a higher stage need those of a lower one, and are stopped before them. */
  readonly stage: number;
  /** Where its log is, for the error that says it does not start. */
  readonly log?: string;
  /** How long it may take to end once asked. Default 1.5 s. */
  readonly stopMs?: number;
  launch(): Promise<Running>;
}

export interface ProcessEntry {
  readonly name: string;
  readonly pid: number;
  readonly service: string;
}

/** What the supervisor takes from the outside; tests give their own. */
export interface Clock {
  now(): number;
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

const realClock: Clock = {
  now: () => performance.now(),
  sleep: (ms, signal) => sleepFor(ms, undefined, { signal }),
};

const firstDelayMs = 100;
const longestDelayMs = 5_000;
/** A process that lived this long starts over with the first delay. */
const steadyMs = 10_000;
/** A part that ends this often before it was ever ready will not become so. */
const attemptsToStart = 5;

interface Hooks {
  readonly clock: Clock;
  readonly say: (line: string) => void;
  readonly changed: () => void;
  readonly stageEnded: (stage: number) => Promise<void> | undefined;
}

/** Keeps one part running: at most one process of it lives at any time, and it is started again until `stop`. */
class Keeper {
  readonly part: Part;
  readonly #hooks: Hooks;
  readonly #stopping = new AbortController();
  readonly #done: Promise<void>;
  /** Resolves when the part is ready for the first time. */
  readonly ready: Promise<void>;
  #running: Running | undefined;
  #wasReady = false;
  #resolve: () => void = () => {};
  #reject: (error: Error) => void = () => {};

  constructor(part: Part, hooks: Hooks) {
    this.part = part;
    this.#hooks = hooks;
    this.ready = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.ready.catch(() => {});
    this.#done = this.#keep();
  }

  get pid(): number | undefined {
    return this.#running?.pid;
  }

  kill(signal: NodeJS.Signals): boolean {
    this.#running?.kill(signal);
    return this.#running !== undefined;
  }

  /** From now on a process that ends stays down. */
  release(): void {
    this.#stopping.abort();
    this.#reject(new Error(`${this.part.name} was stopped before it was ready`));
  }

  async stop(): Promise<void> {
    this.release();
    this.#running?.stop();
    const straggler = setTimeout(() => {
      if (this.#running === undefined) return;
      this.#hooks.say(`${this.part.name} does not end: killing it`);
      this.#running.kill('SIGKILL');
    }, this.part.stopMs ?? 1_500);
    await this.#done;
    clearTimeout(straggler);
  }

  async #keep(): Promise<void> {
    const { clock, say } = this.#hooks;
    const { signal } = this.#stopping;
    const { name } = this.part;
    let failures = 0;
    let attempts = 0;
    while (!signal.aborted) {
      const since = clock.now();
      const why = await this.#runOnce();
      if (signal.aborted) return;
      if (!this.#wasReady && ++attempts >= attemptsToStart) {
        const log = this.part.log === undefined ? '' : ` (its log: ${this.part.log})`;
        this.#reject(new Error(`${name} does not start: ${why}${log}`));
        return;
      }
      if (clock.now() - since >= steadyMs) failures = 0;
      const delay = Math.min(firstDelayMs * 2 ** failures, longestDelayMs);
      failures += 1;
      say(`${name} ended (${why}); starting it again in ${delay} ms`);
      await clock.sleep(delay, signal).catch(() => {});
    }
  }

  /** @returns how it ended */
  async #runOnce(): Promise<string> {
    let running: Running;
    try {
      running = await this.part.launch();
    } catch (error) {
      return messageOf(error);
    }
    this.#running = running;
    this.#hooks.changed();
    if (this.#stopping.signal.aborted) running.stop();
    void running.ready.then(() => {
      if (this.#wasReady) this.#hooks.say(`${this.part.name} is back (pid ${running.pid})`);
      this.#wasReady = true;
      this.#resolve();
    });
    const why = await running.ended;
    this.#running = undefined;
    this.#hooks.changed();
    return why;
  }
}

/**
 * Starts parts, starts those that die again, and stops all, highest stage first. `processes` tells at any time which
 * processes live; `changed` is called after each change of it.
 */
export class Supervisor {
  readonly #keepers: Keeper[] = [];
  readonly #hooks: Hooks;
  #stopped: Promise<void> | undefined;

  /** `stageEnded` is called when `stop` has stopped a stage; `stop` waits for it, the next stage does not. */
  constructor(options: Partial<Hooks> = {}) {
    this.#hooks = {
      clock: realClock,
      say: () => {},
      changed: () => {},
      stageEnded: () => undefined,
      ...options,
    };
  }

  get processes(): readonly ProcessEntry[] {
    return this.#keepers.flatMap(({ pid, part }) =>
      pid === undefined ? [] : [{ name: part.name, pid, service: part.service }],
    );
  }

  /** Resolves once the part is ready. @throws Error when it does not start, or `stop` is called before it has */
  async start(part: Part): Promise<void> {
    if (this.#stopped !== undefined)
      throw new Error(`${part.name} was not started: everything is being stopped`);
    const keeper = new Keeper(part, this.#hooks);
    this.#keepers.push(keeper);
    await keeper.ready;
  }

  /** Sends a signal to a part's process. @throws Error when there is none */
  kill(name: string, signal: NodeJS.Signals): void {
    const keeper = this.#keepers.find(({ part }) => part.name === name);
    if (!keeper?.kill(signal)) throw new Error(`there is no process ${name}`);
  }

  /** Stops everything, one stage after the other; what does not end in its time is killed. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    for (const keeper of this.#keepers) keeper.release();
    const stages = new Set(this.#keepers.map(({ part }) => part.stage));
    const after: (Promise<void> | undefined)[] = [];
    for (const stage of [...stages].sort((a, b) => b - a)) {
      await Promise.all(this.#keepers.filter(({ part }) => part.stage === stage).map((k) => k.stop()));
      after.push(this.#hooks.stageEnded(stage));
    }
    await Promise.all(after);
  }
}
