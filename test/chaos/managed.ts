import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { patienceMs } from './patience.ts';

// The same from the sources (vitest) and from dist/.
const root = [new URL('../../', import.meta.url), new URL('../../../', import.meta.url)].find((base) =>
  existsSync(new URL('package.json', base)),
);

export type Kind = 'kvstore' | 'capture' | 'service';

const entries: Readonly<Record<Kind, string>> = {
  kvstore: 'dist/kvstore/main.js',
  capture: 'dist/changefeed/capture/main.js',
  service: 'dist/test/chaos/service.js',
};

export interface ManagedOptions {
  readonly kind: Kind;
  /** `kvstore0` */
  readonly name: string;
  readonly env: Readonly<Record<string, string>>;
  /** For its log and its trace of failpoints. */
  readonly directory: string;
  /** Plans of failpoints for its first lives; later ones have none. */
  readonly plans: readonly string[];
}

/**
 * One process of a run. Whatever ends it, it is started again, until `stop`; whatever stops it, it is let go on.
 */
export class Managed {
  readonly kind: Kind;
  readonly name: string;
  readonly #options: ManagedOptions;
  readonly #log: number;
  readonly #plans: string[];
  #child: ChildProcess | undefined;
  #serving = false;
  #stopping = false;
  #held = false;
  #clock = 0;
  /** How often it has been started. */
  lives = 0;

  constructor(options: ManagedOptions) {
    this.kind = options.kind;
    this.name = options.name;
    this.#options = options;
    this.#plans = [...options.plans];
    this.#log = openSync(join(options.directory, `${options.name}.log`), 'a');
  }

  /** Resolves once the process serves; it may have taken several lives. */
  async start(): Promise<void> {
    this.#launch();
    await this.ready();
  }

  async ready(): Promise<void> {
    const end = performance.now() + patienceMs;
    while (!this.#serving) {
      if (performance.now() > end) throw new Error(`${this.name} is not ready after ${patienceMs / 1000} s`);
      await sleep(20);
    }
  }

  /** No failpoint is armed in its next lives. */
  disarm(): void {
    this.#plans.length = 0;
  }

  kill(): void {
    this.#child?.kill('SIGKILL');
  }

  /** SIGSTOP, until `resume`. */
  pause(): void {
    this.#held = true;
    this.#child?.kill('SIGSTOP');
  }

  resume(): void {
    this.#held = false;
    this.#child?.kill('SIGCONT');
  }

  /** Sets its clock this many milliseconds before or behind the machine's, in this life and the next ones. */
  setClock(offset: number): void {
    this.#clock = offset;
    if (this.#child?.connected === true) this.#child.send({ clock: offset }, () => {});
  }

  /** Whether something stopped it that was not `pause`: a failpoint. */
  isStuck(): boolean {
    const pid = this.#child?.pid;
    if (pid === undefined || this.#held) return false;
    try {
      // In one go: by the way of promises it is ten times the work, and it is done all the time.
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      return stat.slice(stat.lastIndexOf(')') + 2).startsWith('T');
    } catch {
      return false;
    }
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    const child = this.#child;
    if (child !== undefined && child.exitCode === null && child.signalCode === null) {
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
    }
    closeSync(this.#log);
  }

  #launch(): void {
    this.lives++;
    const { kind, name, env, directory } = this.#options;
    const child = fork(fileURLToPath(new URL(entries[kind], root)), [], {
      env: {
        PATH: process.env.PATH,
        CONGER_INSTANCE: name,
        ...env,
        CONGER_FAILPOINTS: this.#plans.shift() ?? '',
        CONGER_FAILPOINTS_TRACE: join(directory, `${name}.trace`),
      },
      execArgv: ['--import', new URL('dist/test/chaos/clock.js', root).href],
      stdio: ['ignore', this.#log, this.#log, 'ipc'],
    });
    this.#child = child;
    this.#held = false;
    // What cannot be told to one that has died is told to the next.
    child.on('error', () => {});
    if (this.#clock !== 0) child.send({ clock: this.#clock }, () => {});
    child.once('message', () => {
      // What it said may be read after its end.
      this.#serving = child.exitCode === null && child.signalCode === null;
    });
    // One that is stopped does not notice that its parent has gone.
    const end = () => child.kill('SIGKILL');
    process.once('exit', end);
    child.once('exit', () => {
      process.off('exit', end);
      this.#serving = false;
      if (!this.#stopping) setTimeout(() => !this.#stopping && this.#launch(), 50);
    });
  }
}
