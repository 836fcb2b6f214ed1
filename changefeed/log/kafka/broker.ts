import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, existsSync, openSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Kafka, logLevel } from 'kafkajs';
import { messageOf } from '../../../runtime/errors.ts';
import { freePort } from '../../../runtime/ports.ts';
import './repair.ts';
import { deployDirectory, installKafka } from './install.ts';

export { installKafka, missingForKafka } from './install.ts';

const run = promisify(execFile);

/** A start takes 3 s; on a machine that is busy with other things, many times that. */
const startMs = 180_000;

export interface BrokerOptions {
  /** Holds the broker's data, its configuration and its pid; a broker started on it again carries on. */
  readonly dir: string;
  /** Port for clients, on 127.0.0.1; 0: any. */
  readonly port: number;
  /** File that the broker's log is appended to (JSON lines); broker.log in `dir` by default. */
  readonly logFile?: string;
  /** Progress worth a line. */
  readonly say?: (line: string) => void;
  /** Where it is one of several. */
  readonly node?: ClusterNode;
}

/** One broker of a cluster whose controller is the node with id 1. */
export interface ClusterNode {
  readonly id: number;
  /** 16 bytes as base64url, the same for all. */
  readonly cluster: string;
  /** The controller's port, on 127.0.0.1. */
  readonly controller: number;
  /** Over the settings of broker.properties. */
  readonly settings: Readonly<Record<string, string>>;
}

export interface Broker {
  /** For clients: `['127.0.0.1:<port>']`. */
  readonly brokers: string[];
  readonly pid: number;
  /** Resolves when the broker has ended, wanted or not. */
  readonly ended: Promise<void>;
  /** Sends a signal and waits for the end. */
  kill(signal: NodeJS.Signals): Promise<void>;
  /** Ends it in peace, within 8 s. */
  stop(): Promise<void>;
}

/**
 * Starts one Kafka broker (KRaft, with its controller in the same JVM) as a child, formatting `dir` where it is new, and
 * waits until it answers. A broker that a killed predecessor left on `dir` is stopped first.
 * @throws Error with the broker's own last lines when it does not start
 */
export async function startBroker(options: BrokerOptions): Promise<Broker> {
  const say = options.say ?? (() => {});
  const jars = await installKafka(say);
  const dir = resolve(options.dir);
  await mkdir(dir, { recursive: true });
  await stopPredecessor(dir, say);
  const port = options.port === 0 ? await freePort() : options.port;
  const node = options.node ?? (await alone());
  const config = await writeConfiguration(dir, port, node);
  if (!existsSync(join(dir, 'data', 'meta.properties'))) await format(jars, dir, config, node.cluster);

  const logFile = options.logFile ?? join(dir, 'broker.log');
  const child = launch(jars, config, logFile);
  const ended = once(child, 'close').then(
    () => {},
    () => {},
  );
  const { pid } = child;
  if (pid === undefined) throw new Error('the Kafka broker could not be started: java does not run');
  await writeFile(pidFile(dir), String(pid));
  const brokers = [`127.0.0.1:${port}`];
  const kill = async (signal: NodeJS.Signals) => {
    child.kill(signal);
    await ended;
  };
  try {
    await untilReady(brokers, ended);
  } catch (error) {
    await kill('SIGKILL');
    const log = await readFile(logFile, 'utf8').catch(() => '');
    const words = log.trim().split('\n').slice(-12).join('\n');
    throw new Error(`the Kafka broker did not start: ${messageOf(error)}\n${words}`, { cause: error });
  }
  const stop = async () => {
    const hard = setTimeout(() => child.kill('SIGKILL'), 8_000);
    await kill('SIGTERM');
    clearTimeout(hard);
    await rm(pidFile(dir), { force: true });
  };
  return { brokers, pid, ended, kill, stop };
}

function pidFile(dir: string): string {
  return join(dir, 'broker.pid');
}

async function alone(): Promise<ClusterNode> {
  return { id: 1, cluster: newCluster(), controller: await freePort(), settings: {} };
}

/** A new cluster's id. */
export function newCluster(): string {
  return randomBytes(16).toString('base64url');
}

async function writeConfiguration(dir: string, port: number, node: ClusterNode): Promise<string> {
  const template = await readFile(join(deployDirectory, 'broker.properties'), 'utf8');
  const config = join(dir, 'server.properties');
  const controls = node.id === 1;
  const listeners = [`PLAINTEXT://127.0.0.1:${port}`];
  if (controls) listeners.push(`CONTROLLER://127.0.0.1:${node.controller}`);
  // Of a setting that comes twice Kafka takes the last.
  const settings = {
    'node.id': String(node.id),
    'process.roles': controls ? 'broker,controller' : 'broker',
    listeners: listeners.join(','),
    'advertised.listeners': `PLAINTEXT://127.0.0.1:${port}`,
    'controller.quorum.voters': `1@127.0.0.1:${node.controller}`,
    'log.dirs': join(dir, 'data'),
    ...node.settings,
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}`);
  await writeFile(config, `${template}\n${lines.join('\n')}\n`);
  return config;
}

function javaArguments(jars: string): string[] {
  return ['-cp', join(jars, '*'), `-Dlog4j2.configurationFile=${join(deployDirectory, 'log4j2.properties')}`];
}

async function format(jars: string, dir: string, config: string, cluster: string): Promise<void> {
  // What a format that was interrupted left behind has no data in it, and another cluster's id.
  await rm(join(dir, 'data'), { recursive: true, force: true });
  const tool = ['kafka.tools.StorageTool', 'format', '--config', config, `--cluster-id=${cluster}`];
  await run('java', [...javaArguments(jars), '-XX:TieredStopAtLevel=1', ...tool]);
}

function launch(jars: string, config: string, logFile: string): ChildProcess {
  const log = openSync(logFile, 'a');
  const heap = ['-Xms256m', '-Xmx512m', '-XX:+UseG1GC', '-XX:MaxGCPauseMillis=20'];
  try {
    // A session of its own: the terminal's Ctrl-C is for us, who stop the broker last.
    return spawn('java', [...javaArguments(jars), ...heap, 'kafka.Kafka', config], {
      detached: true,
      stdio: ['ignore', log, log],
    });
  } finally {
    closeSync(log);
  }
}

/** Waits until the broker answers and has registered with its controller. */
async function untilReady(brokers: string[], ended: Promise<void>): Promise<void> {
  let over = false;
  void ended.then(() => {
    over = true;
  });
  const deadline = Date.now() + startMs;
  while (!(await answers(brokers))) {
    if (over) throw new Error('it ended at once');
    if (Date.now() > deadline) throw new Error(`it does not answer after ${startMs / 1000} s`);
    await sleep(50);
  }
}

async function answers(brokers: string[]): Promise<boolean> {
  const admin = new Kafka({
    brokers,
    clientId: 'conger-start',
    logLevel: logLevel.NOTHING,
    requestTimeout: 2_000,
    retry: { retries: 0 },
  }).admin();
  try {
    await admin.connect();
    return (await admin.describeCluster()).brokers.length > 0;
  } catch {
    return false;
  } finally {
    await admin.disconnect().catch(() => {});
  }
}

async function stopPredecessor(dir: string, say: (line: string) => void): Promise<void> {
  const text = await readFile(pidFile(dir), 'utf8').catch(() => '');
  const pid = Number(text);
  // The number may since have gone to another process.
  if (!Number.isInteger(pid) || pid <= 0 || !(await isBroker(pid, dir))) return;
  say(`stopping the Kafka broker that was left running (pid ${pid})`);
  process.kill(pid, 'SIGTERM');
  for (let waited = 0; await isBroker(pid, dir); waited += 100) {
    if (waited === 8_000) process.kill(pid, 'SIGKILL');
    await sleep(100);
  }
}

async function isBroker(pid: number, dir: string): Promise<boolean> {
  const config = join(dir, 'server.properties');
  if (process.platform === 'linux') {
    const raw = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    return raw.includes('kafka.Kafka') && raw.includes(config);
  }
  const { stdout } = await run('ps', ['-ww', '-o', 'command=', '-p', String(pid)]).catch(() => ({
    stdout: '',
  }));
  return stdout.includes('kafka.Kafka') && stdout.includes(config);
}
