import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { CommandError, patience, run } from './exec.ts';

type Child = ChildProcessByStdio<Writable, null, Readable>;

interface Running {
  readonly child: Child;
  /** The namespace that it is in, whatever its name stands for by now. */
  readonly inode: number;
  readonly closed: Promise<void>;
  served: number;
}

/** nft keeps every line that it was given; so it is replaced now and then. */
const mostServed = 10_000;

const netns = (namespace: string) => `/run/netns/${namespace}`;

/**
 * One nft that stays in a namespace and runs transactions, each of which is in force, or refused as a whole, when `load`
 * ends. An nft for each transaction would cost the start of two programs and, at its end, the wait for an RCU grace
 * period with which the kernel parts from a netlink socket: much longer than the transaction itself.
 *
 * A transaction is written to a file, and nft is given one short line that includes it: an agent that is killed in the
 * middle leaves a file that nobody reads. The line after it is none of nft's words. nft quotes it among its errors, and by
 * then it has done the one before and said what was wrong with it.
 */
export class NftSession {
  readonly #namespace: string;
  readonly #file: string;
  readonly #mark = `end-of-transaction-${randomBytes(8).toString('hex')}`;
  #running: Running | null = null;
  #interactive = true;
  #turn: Promise<unknown> = Promise.resolve();

  /** @param file where transactions are written; made with its folder. */
  constructor(namespace: string, file: string) {
    this.#namespace = namespace;
    this.#file = file;
  }

  /** The process id of the nft that is running, if one is. */
  get pid(): number | undefined {
    return this.#running?.child.pid;
  }

  /** @throws CommandError with nft's words if the transaction was refused, or if nft ended and its outcome is not known. */
  load(text: string): Promise<void> {
    return this.#serially(async () => {
      mkdirSync(dirname(this.#file), { recursive: true });
      // A file in memory: it takes less time than to hand the work to another thread.
      writeFileSync(this.#file, text, { mode: 0o600 });
      const running = await this.#open();
      if (running === null) return this.#loadOnce();
      running.served += 1;
      const problem = await this.#ask(running.child, `include "${this.#file}"\n`);
      if (problem !== '') throw new CommandError('nft', problem, 'refused');
    });
  }

  /** Ends nft; what is in force stays. */
  close(): Promise<void> {
    return this.#serially(() => this.#end());
  }

  /** The nft that runs in what is now the namespace; null where nft cannot be kept running. */
  async #open(): Promise<Running | null> {
    if (this.#running !== null) {
      const { child, inode, served } = this.#running;
      const alive = child.exitCode === null && child.signalCode === null;
      if (alive && served < mostServed && inode === inodeOf(netns(this.#namespace))) return this.#running;
      await this.#end();
    }
    if (!this.#interactive) return null;
    const child = spawn('nsenter', [`--net=${netns(this.#namespace)}`, 'nft', '-i'], {
      stdio: ['pipe', 'ignore', 'pipe'],
      // It would keep its history in a file there.
      env: { ...process.env, HOME: '/dev/null' },
    });
    // What becomes of it shows in its end.
    for (const part of [child, child.stdin, child.stderr]) part.on('error', () => {});
    const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
    try {
      const problem = await this.#ask(child, '');
      if (problem !== '') throw new CommandError('nft -i', problem, 'not ready');
    } catch {
      child.kill('SIGKILL');
      await closed;
      return null;
    }
    this.#running = { child, closed, inode: inodeOf(`/proc/${child.pid}/ns/net`) ?? 0, served: 0 };
    return this.#running;
  }

  /** For an nft that was built without its interactive mode. */
  async #loadOnce(): Promise<void> {
    await run('nsenter', [`--net=${netns(this.#namespace)}`, 'nft', '-f', this.#file]);
    this.#interactive = false;
  }

  async #end(): Promise<void> {
    const running = this.#running;
    this.#running = null;
    running?.child.kill('SIGKILL');
    await running?.closed;
  }

  /** Gives nft a line and waits for its end. Answers what nft said about it, '' if nothing. */
  #ask(child: Child, line: string): Promise<string> {
    return new Promise((resolve, reject) => {
      let said = '';
      const finish = (settle: () => void) => {
        clearTimeout(timer);
        child.stderr.off('data', onData);
        child.off('close', onClose);
        child.off('error', onError);
        settle();
      };
      const onData = (chunk: Buffer) => {
        said += chunk.toString();
        const end = `\n${said}`.indexOf(`\n${this.#mark}\n`);
        if (end >= 0) finish(() => resolve(problemIn(said.slice(0, end))));
      };
      const onClose = (code: number | null, signal: string | null) =>
        finish(() => reject(new CommandError('nft -i', said, `ended with ${code ?? signal}`)));
      const onError = (error: Error) =>
        finish(() => reject(new CommandError('nft -i', error.message, 'cannot start')));
      const timer = setTimeout(() => child.kill('SIGKILL'), patience);
      child.stderr.on('data', onData);
      child.once('close', onClose);
      child.once('error', onError);
      child.stdin.write(`${line}${this.#mark}\n`);
    });
  }

  #serially<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work, work);
    this.#turn = turn;
    return turn;
  }
}

/**
 * What nft said before it quoted the mark: all but the last line, which says that the mark is no command, and but for
 * underlining, of which some may be of the mark before.
 */
function problemIn(said: string): string {
  const lines = said.split('\n').filter((line) => /[^\s^~]/.test(line));
  return lines.slice(0, -1).join('\n');
}

function inodeOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.ino;
}
