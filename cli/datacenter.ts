import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cleanup } from '../agents/driver/cleanup.ts';
import { messageOf } from '../runtime/errors.ts';
import { freeRange } from '../runtime/ports.ts';
import { type Endpoints, EndpointsFile } from './endpoints.ts';
import { Home, lockHome } from './home.ts';
import { readHomeLog } from './home-log.ts';
import { type Need, provide } from './install.ts';
import { type Identities, identities, type NodeKind, netnsProblem } from './nodes.ts';
import type { DatacenterOptions } from './options.ts';
import { checkBrokers } from './parts/kafka-part.ts';
import { stopLeftover } from './parts/postgres.ts';
import { removeData } from './parts/postgres-data.ts';
import { checkPostgres } from './parts/postgres-part.ts';
import { findByLastArguments } from './parts/processes.ts';
import { checkPorts, defaultPortBase, planPorts, portCount } from './plan.ts';
import { agentStage, checkBuilt, dist, locate, startAll } from './start.ts';
import { type ProcessEntry, Supervisor } from './supervisor.ts';

export interface Datacenter {
  /** What endpoints.json holds now. */
  readonly endpoints: Endpoints;
  readonly processes: readonly ProcessEntry[];
  readonly home: Home;
  /** The compute nodes, and what the names of their namespaces begin with. */
  readonly identities: Identities;
  /** @throws Error when no process of this name runs */
  kill(name: string, signal: NodeJS.Signals): void;
  /** Stops everything, within 10 s, and gives the home back. */
  stop(): Promise<void>;
  /** Stops everything and deletes the home, with data that lies outside it too. */
  destroy(): Promise<void>;
}

/** How long what a killed predecessor left running may take to end, which it does by itself once it notices. */
const orphanMs = 3_000;
const kafkaOrphanMs = 8_000;

async function endOrphans(home: Home, say: (line: string) => void): Promise<void> {
  // Whoever else has the home as its last argument (npm, a shell's script, an editor) is no process of ours.
  await endMarked([/.*main\.js/, /[a-z]+\d+/, home.path], orphanMs, say);
  await endMarked(['kafka.Kafka', join(home.kafka, 'server.properties')], kafkaOrphanMs, say);
  if (existsSync(home.postgres)) await stopLeftover(home.postgres, say);
}

async function endMarked(
  last: readonly (string | RegExp)[],
  patienceMs: number,
  say: (line: string) => void,
): Promise<void> {
  for (let waited = 0; ; waited += 100) {
    const pids = await findByLastArguments(...last);
    if (pids.length === 0) return;
    if (waited === 0) say(`waiting for what is left of the last run to end (${pids.length})`);
    if (waited >= patienceMs) for (const pid of pids) tryKill(pid);
    await sleep(100);
  }
}

/** @throws Error when the process is another user's */
function tryKill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    // ESRCH: it has ended by itself.
    if ((error as NodeJS.ErrnoException).code === 'EPERM') {
      throw new Error(`process ${pid} of the last run still runs, and is another user's: end it first`);
    }
  }
}

async function nodeKind(options: DatacenterOptions, met: Set<Need>, ids: Identities): Promise<NodeKind> {
  if (options.simulated || (options.nodes ?? 2) === 0) return 'simulated';
  const problem = await netnsProblem(ids.prefix);
  if (met.has('netns') && problem === undefined) return 'netns';
  options.say?.(`compute nodes are simulated: ${problem ?? 'programs are missing'}`);
  return 'simulated';
}

/** Whether a broker is started; without what it takes the log is the embedded one, unless it has been in Kafka before. */
async function ownKafka(home: Home, met: Set<Need>, say: (line: string) => void): Promise<boolean> {
  if (met.has('kafka')) return true;
  const before = await readHomeLog(home);
  const wasKafka = before === undefined ? existsSync(home.kafka) : before.kind === 'kafka';
  if (wasKafka) throw new Error(`${home.path} has its log in Kafka, which cannot be started`);
  say('the log is the embedded one');
  return false;
}

/**
 * The machines of a datacenter that is stopped are off: their namespaces go once the agents have ended, which make them
 * again at the next start. (An agent that merely dies leaves them as they are.)
 */
async function powerOff(prefix: string, say: (line: string) => void): Promise<void> {
  await cleanup(prefix).catch((error) => say(`not all namespaces could be removed: ${messageOf(error)}`));
}

/**
 * Brings a datacenter up, on the data that its home holds, and keeps it up until `stop`.
 * @throws Error when a part does not start; what had been started is stopped again
 */
export async function startDatacenter(options: DatacenterOptions): Promise<Datacenter> {
  const home = new Home(options.home);
  await home.make();
  const unlock = await lockHome(home);
  try {
    return await bringUp(home, options, unlock);
  } catch (error) {
    await unlock();
    throw error;
  }
}

async function bringUp(
  home: Home,
  options: DatacenterOptions,
  unlock: () => Promise<void>,
): Promise<Datacenter> {
  const say = options.say ?? (() => {});
  const instances = options.instances ?? 2;
  checkBuilt(options.built ?? dist);
  await endOrphans(home, say);
  await rm(home.endpoints, { force: true });

  const needs: Need[] = [
    ...(options.kafka === true ? ['kafka' as const] : []),
    ...(options.simulated || options.nodes === 0 || process.getuid?.() !== 0 ? [] : ['netns' as const]),
  ];
  const met = await provide(needs, { decline: options.install === false, say });
  const unmet = needs.filter((need) => !met.has(need));
  if (process.env.CI && options.install !== false && unmet.length > 0) {
    throw new Error(`CI is set, and this could not be installed: what ${unmet.join(' and ')} take`);
  }
  const kafka = options.kafka === true ? await ownKafka(home, met, say) : (options.kafka ?? false);

  const base = options.portBase ?? defaultPortBase;
  const first = base === 'free' ? await freeRange(portCount(instances)) : base;
  const ports = planPorts(first, instances, options.captures ?? 1);
  await checkPorts(ports, { postgres: options.postgres === undefined, kafka: kafka === true });
  const ids = await identities(home, options.nodes ?? 2);
  const kind = await nodeKind(options, met, ids);
  if (options.postgres !== undefined) await checkPostgres(options.postgres);
  if (typeof kafka === 'object') await checkBrokers(kafka);

  const where = locate(ports, { ...options, kafka }, ids, kind);
  const file = new EndpointsFile(home.endpoints);
  let serving = false;
  const current = (): Endpoints => ({ ...where, processes: [...supervisor.processes] });
  const supervisor = new Supervisor({
    say,
    stageEnded: (stage) => (stage === agentStage && kind === 'netns' ? powerOff(ids.prefix, say) : undefined),
    changed: () => {
      // The file is there while the datacenter serves: whoever waits for it finds everything up.
      if (serving) void file.update(current).catch((error) => say(`${home.endpoints}: ${error}`));
    },
  });
  const stop = async () => {
    serving = false;
    await supervisor.stop();
    await file.remove();
    await unlock();
  };
  const giveUp = () => void supervisor.stop().catch(() => {});
  options.signal?.addEventListener('abort', giveUp);
  try {
    options.signal?.throwIfAborted();
    await startAll(supervisor, { home, where, ports, ids, options: { ...options, kafka }, say });
    serving = true;
    await file.update(current);
  } catch (error) {
    await supervisor.stop();
    throw options.signal?.aborted ? options.signal.reason : error;
  } finally {
    options.signal?.removeEventListener('abort', giveUp);
  }
  return {
    get endpoints() {
      return current();
    },
    get processes() {
      return supervisor.processes;
    },
    home,
    identities: ids,
    kill: (name, signal) => supervisor.kill(name, signal),
    stop,
    destroy: async () => {
      await stop();
      await removeData(home.postgres);
      await rm(home.path, { recursive: true, force: true });
    },
  };
}
