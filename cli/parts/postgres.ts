import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Account, serverAccount } from './account.ts';
import { guard } from './guard.ts';
import { findPostgres, type PostgresBinaries } from './postgres-binaries.ts';
import { initialise, ownerOf, placeData, runTool, toolEnvironment } from './postgres-data.ts';
import { commandOf } from './processes.ts';

export interface PostgresOptions {
  /** Directory of the cluster; the data lies in `data` under it, or where `placeData` says. */
  readonly directory: string;
  readonly port: number;
  /** Settings over the ones below. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Progress worth a line. */
  readonly say?: (line: string) => void;
  /** Each line that PostgreSQL logs. */
  readonly onLine?: (line: string) => void;
  /** Called when a cluster is missing; true when it has put one at `data`. */
  readonly template?: (
    data: string,
    binaries: PostgresBinaries,
    account: Account | undefined,
  ) => Promise<void>;
  /** Removed with PostgreSQL, when this process is gone before `stop` was called. */
  readonly removeIfAbandoned?: boolean;
}

export interface Postgres {
  readonly url: string;
  readonly pid: number;
  readonly data: string;
  /** Resolves when PostgreSQL has ended, wanted or not. */
  readonly ended: Promise<void>;
  /** Fast shutdown: connections are cut, a checkpoint is written. */
  stop(): Promise<void>;
  kill(signal: NodeJS.Signals): void;
}

const defaults: Readonly<Record<string, string>> = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  wal_level: 'logical',
  max_connections: '200',
  max_replication_slots: '20',
  max_wal_senders: '20',
  // A capture that is not there must not fill the disk. Beyond CONGER_WAL_BUDGET_MB, of which it warns.
  max_slot_wal_keep_size: '8GB',
  fsync: 'on',
  log_line_prefix: '%p %q%a ',
};

/** A cluster has one server: one that a killed predecessor left is stopped, its stale lock file is removed. */
async function clearPredecessor(
  binaries: PostgresBinaries,
  data: string,
  account: Account | undefined,
  say: (line: string) => void,
): Promise<void> {
  const lock = join(data, 'postmaster.pid');
  const text = await readFile(lock, 'utf8').catch(() => undefined);
  if (text === undefined) return;
  const pid = Number(text.split('\n')[0]);
  const command = await commandOf(pid);
  // The number may since have gone to another process, which pg_ctl would signal and postgres would mistake.
  if (command?.includes('postgres') && command.includes(data)) {
    say(`stopping the PostgreSQL that was left running (pid ${pid})`);
    await runTool(binaries.pgCtl, ['stop', '-D', data, '-m', 'fast', '-w', '-t', '30'], { account });
  } else {
    await rm(lock, { force: true });
  }
}

/** Stops the server of a cluster that a killed predecessor left running, where there is one. */
export async function stopLeftover(directory: string, say: (line: string) => void): Promise<void> {
  const preferred = serverAccount();
  const binaries = await findPostgres(preferred, () => {});
  const data = join(await placeData(directory, preferred, say), 'data');
  await clearPredecessor(binaries, data, await ownerOf(data, preferred), say);
}

class StartError extends Error {}

function launch(
  binaries: PostgresBinaries,
  data: string,
  account: Account | undefined,
  options: PostgresOptions,
): ChildProcess {
  const settings = { ...defaults, port: String(options.port), ...options.settings };
  const args = [
    '-D',
    data,
    ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
  ];
  // A session of its own: the terminal's Ctrl-C is for us, who stop it last.
  return spawn(binaries.postgres, args, {
    ...account,
    cwd: '/',
    detached: true,
    env: toolEnvironment(),
    stdio: ['ignore', 'ignore', 'pipe'],
  });
}

async function untilReady(child: ChildProcess, onLine: (line: string) => void): Promise<void> {
  const stderr = child.stderr;
  if (stderr === null) throw new StartError('postgres has no stderr');
  const tail: string[] = [];
  const lines = createInterface({ input: stderr });
  await new Promise<void>((resolve, reject) => {
    lines.on('line', (line) => {
      onLine(line);
      tail.push(line);
      if (tail.length > 20) tail.shift();
      if (/database system is ready to accept (read-only )?connections/.test(line)) resolve();
    });
    child.once('error', reject);
    child.once('close', () => reject(new StartError(`PostgreSQL did not start:\n${tail.join('\n')}`)));
  });
}

/**
 * Starts PostgreSQL as a child, making its cluster first where there is none, and waits until it takes connections.
 * As root it runs under an account of its own.
 * @throws Error with PostgreSQL's own last lines when it does not start
 */
export async function startServer(options: PostgresOptions): Promise<Postgres> {
  const say = options.say ?? (() => {});
  const onLine = options.onLine ?? (() => {});
  const preferred = serverAccount();
  const binaries = await findPostgres(preferred, say);
  const place = await placeData(options.directory, preferred, say);
  const data = join(place, 'data');
  if (options.template !== undefined) await options.template(data, binaries, preferred);
  await initialise(binaries, data, preferred, { sync: options.template === undefined });
  const account = await ownerOf(data, preferred);

  let child: ChildProcess;
  let dismiss: () => void;
  for (let attempt = 0; ; attempt++) {
    await clearPredecessor(binaries, data, account, say);
    child = launch(binaries, data, account, options);
    // From the first moment: a standby whose primary is gone never gets ready.
    const remove = options.removeIfAbandoned ? { thenRemove: place } : {};
    dismiss = child.pid === undefined ? () => {} : guard(child.pid, 'INT', { account, ...remove });
    try {
      await untilReady(child, onLine);
      break;
    } catch (error) {
      dismiss();
      // A killed postmaster's backends hold its shared memory until they notice: within a second or so, on a machine that
      // is busy with other things in many times that.
      const held = error instanceof StartError && error.message.includes('shared memory block');
      if (!held || attempt >= 120) throw error;
      await sleep(250);
    }
  }
  const { pid } = child;
  if (pid === undefined) throw new StartError('PostgreSQL has no pid');
  const ended = child.exitCode !== null ? Promise.resolve() : once(child, 'close').then(() => {});
  void ended.then(dismiss);
  return {
    url: `postgresql://conger@127.0.0.1:${options.port}/conger`,
    pid,
    data,
    ended,
    kill: (signal) => {
      child.kill(signal);
    },
    stop: async () => {
      child.kill('SIGINT');
      const hard = setTimeout(() => child.kill('SIGQUIT'), 6_000);
      await ended;
      clearTimeout(hard);
    },
  };
}
