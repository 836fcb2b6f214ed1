import { type Profiler, Session } from 'node:inspector';

/** Which characters of which functions have been run; the key is the function's place. */
type Reached = Map<string, Uint8Array>;

/**
 * The parts of some modules that have ever been run in this process, by V8's own block coverage. What is told apart is
 * code, not values: good enough to know which inputs are worth keeping.
 */
export class Coverage {
  readonly #session = new Session();
  readonly #modules: RegExp;
  readonly #reached: Reached = new Map();
  #size = 0;

  /** @param modules the modules' URLs */
  constructor(modules: RegExp) {
    this.#modules = modules;
    this.#session.connect();
    this.#session.post('Profiler.enable');
    this.#session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true });
  }

  /** Characters of source that have been run. */
  get size(): number {
    return this.#size;
  }

  /** Forgets what ran since the last look. */
  skip(): void {
    this.#session.post('Profiler.takePreciseCoverage');
  }

  /** Whether what ran since the last look has anything new; `keep`: it is not new any more from now on. */
  look(keep: boolean): boolean {
    let result: Profiler.ScriptCoverage[] = [];
    // A session of this thread answers before post returns.
    this.#session.post('Profiler.takePreciseCoverage', (error, taken) => {
      if (error !== null) throw error;
      result = taken.result;
    });
    let found = false;
    for (const script of result) {
      if (!this.#modules.test(script.url)) continue;
      for (const { ranges } of script.functions) {
        const [whole] = ranges;
        if (whole === undefined || whole.count === 0) continue;
        const now = new Uint8Array(whole.endOffset - whole.startOffset);
        // An inner range comes after the one around it.
        for (const { startOffset, endOffset, count } of ranges) {
          now.fill(count > 0 ? 1 : 0, startOffset - whole.startOffset, endOffset - whole.startOffset);
        }
        found = this.#add(`${script.url}:${whole.startOffset}`, now, keep) || found;
        if (found && !keep) return true;
      }
    }
    return found;
  }

  #add(key: string, now: Uint8Array, keep: boolean): boolean {
    const before = this.#reached.get(key) ?? new Uint8Array(now.length);
    let more = 0;
    for (let i = 0; i < now.length; i++) {
      if (now[i] === 1 && before[i] === 0) {
        more++;
        if (keep) before[i] = 1;
      }
    }
    if (more > 0 && keep) {
      this.#reached.set(key, before);
      this.#size += more;
    }
    return more > 0;
  }

  stop(): void {
    this.#session.post('Profiler.stopPreciseCoverage');
    this.#session.disconnect();
  }
}
