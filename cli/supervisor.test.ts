import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { launchNode } from './parts/node-process.ts';
import { type Clock, type Part, type Running, Supervisor } from './supervisor.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'conger-supervisor-'));
});

afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

/** A clock that stands still, takes note of each delay, and moves only when a process says how long it lived. */
class FakeClock implements Clock {
  time = 0;
  readonly delays: number[] = [];

  now(): number {
    return this.time;
  }

  async sleep(ms: number): Promise<void> {
    this.delays.push(ms);
    this.time += ms;
  }
}

/** A process of which the test decides when it serves and ends. */
class FakeProcess implements Running {
  readonly pid: number;
  readonly ready: Promise<void>;
  readonly ended: Promise<string>;
  readonly signals: string[] = [];
  serve: () => void = () => {};
  end: (why: string) => void = () => {};

  constructor(pid: number) {
    this.pid = pid;
    this.ready = new Promise((resolve) => {
      this.serve = resolve;
    });
    this.ended = new Promise((resolve) => {
      this.end = resolve;
    });
  }

  stop(): void {
    this.signals.push('stop');
  }

  kill(signal: NodeJS.Signals): void {
    this.signals.push(signal);
    this.end(signal);
  }
}

/** Hands out fake processes one by one. */
class Launcher {
  readonly started: FakeProcess[] = [];
  readonly #waiting: ((process: FakeProcess) => void)[] = [];
  #taken = 0;

  readonly launch = async (): Promise<Running> => {
    const process = new FakeProcess(100 + this.started.length);
    this.started.push(process);
    this.#waiting.shift()?.(process);
    return process;
  };

  next(): Promise<FakeProcess> {
    const process = this.started[this.#taken];
    this.#taken += 1;
    if (process !== undefined) return Promise.resolve(process);
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}

function part(name: string, launch: () => Promise<Running>, stage = 0): Part {
  return { name, service: name.replace(/\d+$/, ''), stage, launch };
}

describe('a process that dies', () => {
  it('is started again with delays that double up to 5 s, and start over once it lived for 10 s', async () => {
    const clock = new FakeClock();
    const launcher = new Launcher();
    const supervisor = new Supervisor({ clock });
    const started = supervisor.start(part('vmapi0', launcher.launch));
    for (let i = 0; i < 8; i++) {
      const process = await launcher.next();
      process.serve();
      await started;
      process.end('SIGKILL');
    }
    const steady = await launcher.next();
    steady.serve();
    await steady.ready;
    clock.time += 10_000;
    steady.end('SIGKILL');
    const last = await launcher.next();
    expect(clock.delays).toEqual([100, 200, 400, 800, 1600, 3200, 5000, 5000, 100]);
    const stopped = supervisor.stop();
    last.end('exit 0');
    await stopped;
  });

  it('is said, and the list of processes has its new pid and never a dead one', async () => {
    const lines: string[] = [];
    const seen: number[][] = [];
    const launcher = new Launcher();
    const supervisor = new Supervisor({
      clock: new FakeClock(),
      say: (line) => lines.push(line),
      changed: () => seen.push(supervisor.processes.map(({ pid }) => pid)),
    });
    const started = supervisor.start(part('vmapi0', launcher.launch));
    (await launcher.next()).serve();
    await started;
    supervisor.kill('vmapi0', 'SIGKILL');
    const second = await launcher.next();
    second.serve();
    await second.ready;
    await new Promise(setImmediate);
    expect(seen).toEqual([[100], [], [101]]);
    expect(supervisor.processes).toEqual([{ name: 'vmapi0', pid: 101, service: 'vmapi' }]);
    expect(lines).toEqual([
      'vmapi0 ended (SIGKILL); starting it again in 100 ms',
      'vmapi0 is back (pid 101)',
    ]);
    const stopped = supervisor.stop();
    second.end('exit 0');
    await stopped;
  });

  it('that never served is given up, with what it said', async () => {
    let attempts = 0;
    const supervisor = new Supervisor({ clock: new FakeClock() });
    const launch = () => {
      attempts += 1;
      return Promise.reject(new Error('port 1 is taken'));
    };
    await expect(supervisor.start(part('napi0', launch))).rejects.toThrow(
      'napi0 does not start: port 1 is taken',
    );
    expect(attempts).toBe(5);
    await supervisor.stop();
  });
});

describe('stopping', () => {
  it('asks the highest stage first, and the next only once that has ended', async () => {
    const supervisor = new Supervisor({ clock: new FakeClock() });
    const low = new Launcher();
    const high = new Launcher();
    const starting = [
      supervisor.start(part('low0', low.launch, 1)),
      supervisor.start(part('high0', high.launch, 2)),
    ];
    const [lower, upper] = await Promise.all([low.next(), high.next()]);
    lower.serve();
    upper.serve();
    await Promise.all(starting);
    const stopped = supervisor.stop();
    expect([lower.signals, upper.signals]).toEqual([[], ['stop']]);
    upper.end('exit 0');
    await upper.ended;
    await new Promise(setImmediate);
    expect(lower.signals).toEqual(['stop']);
    lower.end('exit 0');
    await stopped;
    expect([low.started.length, high.started.length]).toEqual([1, 1]);
  });

  it('kills what does not end when asked', async () => {
    const launcher = new Launcher();
    const supervisor = new Supervisor({ clock: new FakeClock() });
    const started = supervisor.start({ ...part('vmapi0', launcher.launch), stopMs: 1 });
    const process = await launcher.next();
    process.serve();
    await started;
    await supervisor.stop();
    expect(process.signals).toEqual(['stop', 'SIGKILL']);
  });

  it('fails those that wait for a part that is not ready yet, and starts nothing after it', async () => {
    const launcher = new Launcher();
    const supervisor = new Supervisor({ clock: new FakeClock() });
    const started = supervisor.start(part('vmapi0', launcher.launch));
    const process = await launcher.next();
    const stopped = supervisor.stop();
    await expect(started).rejects.toThrow('stopped before it was ready');
    process.end('SIGTERM');
    await stopped;
    await expect(supervisor.start(part('vmapi1', launcher.launch))).rejects.toThrow('being stopped');
    expect(launcher.started.length).toBe(1);
  });
});

describe('a process of Node', () => {
  const ready = "process.send({ ready: { urls: ['http://127.0.0.1:1'] } });";

  async function script(text: string): Promise<string> {
    const path = join(directory, 'main.mjs');
    await writeFile(path, text);
    return path;
  }

  function launcher(entry: string) {
    const logFile = join(directory, 'fake0.log');
    return () => launchNode({ entry, name: 'fake0', mark: directory, env: process.env, logFile });
  }

  it('is ready when it says so, is started again with another pid, and ends on SIGTERM', async () => {
    const entry = await script(
      `${ready} process.on('SIGTERM', () => process.exit(0)); setInterval(() => {}, 1000);`,
    );
    let lives = 0;
    let back = () => {};
    const again = new Promise<void>((resolve) => {
      back = resolve;
    });
    const launch = launcher(entry);
    const supervisor = new Supervisor();
    await supervisor.start(
      part('fake0', async () => {
        const running = await launch();
        lives += 1;
        if (lives === 2) void running.ready.then(back);
        return running;
      }),
    );
    const [first] = supervisor.processes;
    supervisor.kill('fake0', 'SIGKILL');
    await again;
    const [second] = supervisor.processes;
    expect(second?.pid).not.toBe(first?.pid);
    await supervisor.stop();
    expect(supervisor.processes).toEqual([]);
    expect(() => process.kill(second?.pid ?? 0, 0)).toThrow('ESRCH');
  });

  it('tells the last error it logged when it fails, and its stderr is in the log as JSON', async () => {
    const entry = await script(
      `console.log(JSON.stringify({ level: 'fatal', msg: 'cannot start: no luck' }));
       process.stderr.write('raw words\\n', () => process.exit(70));`,
    );
    const running = await launcher(entry)();
    expect(await running.ended).toBe('exit 70: cannot start: no luck');
    const messages = async () => {
      const lines = (await readFile(join(directory, 'fake0.log'), 'utf8')).trim().split('\n');
      return lines.map((line) => JSON.parse(line).msg);
    };
    expect(await messages()).toContain('cannot start: no luck');
    // Its end is told without waiting for long for whoever else may hold its stderr.
    await vi.waitFor(async () => expect(await messages()).toContain('raw words'), { timeout: 30_000 });
  });
});
