import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Endpoints, EndpointsFile } from './endpoints.ts';
import { Home, lockHome } from './home.ts';
import { type Need, provide, searchPath } from './install.ts';
import { type Identities, identities, type NodeKind, netnsProblem } from './nodes.ts';
import { kafkaPart } from './parts/kafka-part.ts';
import { launchNode } from './parts/node-process.ts';
import { freeRange } from './parts/ports.ts';
import { checkPostgres, postgresPart } from './parts/postgres-part.ts';
import { findByLastArgument } from './parts/processes.ts';
import { checkPorts, defaultPortBase, type Ports, planPorts, portCount, replicated } from './plan.ts';
import { type Part, type ProcessEntry, Supervisor } from './supervisor.ts';

export interface DatacenterOptions {
  /** Directory of data, logs and endpoints.json. */
  readonly home: string;
  /** Of each of CNAPI, VMAPI, NAPI and FWAPI. Default 2. */
  readonly instances?: number;
  /** Compute nodes. Default 2. */
  readonly nodes?: number;
  /** Compute nodes are simulated, also where they need not be. */
  readonly simulated?: boolean;
  /** First port; `free` takes any that are free. Default 2020. */
  readonly portBase?: number | 'free';
  /** URL of a PostgreSQL to use instead of one of its own. */
  readonly postgres?: string;
  /** Brokers to use (host:port), or true to start one; else the log is the embedded one. */
  readonly kafka?: boolean | readonly string[];
  /** Whether kvstore answers Moray's `sql` call. */
  readonly sql?: boolean;
  /** Whether Debian packages may be installed. Default true. */
  readonly install?: boolean;
  /** Directory of the compiled entry points. Default: dist/. */
  readonly built?: string;
  /** Over the environment of every process. */
  readonly env?: Readonly<Record<string, string>>;
  /** Progress, a line each. */
  readonly say?: (line: string) => void;
  /** Gives up starting. */
  readonly signal?: AbortSignal;
}

export interface Datacenter {
  /** What endpoints.json holds now. */
  readonly endpoints: Endpoints;
  readonly processes: readonly ProcessEntry[];
  readonly home: Home;
  /** @throws Error when no process of this name runs */
  kill(name: string, signal: NodeJS.Signals): void;
  /** Stops everything, within 10 s, and gives the home back. */
  stop(): Promise<void>;
}

/** Where the compiled entry points are: beside this file once it is compiled itself, else in dist/. */
const dist = import.meta.url.endsWith('.ts')
  ? join(dirname(fileURLToPath(import.meta.url)), '..', 'dist')
  : dirname(dirname(fileURLToPath(import.meta.url)));

/** The entry point of each service, in dist/. */
export const entries = {
  kvstore: 'kvstore/main.js',
  capture: 'changefeed/capture/main.js',
  cnapi: 'services/cnapi/main.js',
  vmapi: 'services/vmapi/main.js',
  napi: 'services/napi/main.js',
  fwapi: 'services/fwapi/main.js',
  adminui: 'services/adminui/main.js',
  agent: 'agents/main.js',
} as const;

type Service = keyof typeof entries;

const stages: Readonly<Record<Service, number>> = {
  kvstore: 1,
  capture: 2,
  cnapi: 3,
  vmapi: 3,
  napi: 3,
  fwapi: 3,
  adminui: 4,
  agent: 4,
};

function checkBuilt(built: string): void {
  const missing = Object.values(entries).filter((entry) => !existsSync(join(built, entry)));
  if (missing.length > 0) throw new Error(`${built} lacks ${missing.join(', ')}: run \`npm run build\``);
}

/** How long what a killed predecessor left running may take to end, which it does by itself once it notices. */
const orphanMs = 3_000;

async function endOrphans(home: Home, say: (line: string) => void): Promise<void> {
  for (let waited = 0; ; waited += 100) {
    const pids = (await findByLastArgument(home.path)).filter((pid) => pid !== process.pid);
    if (pids.length === 0) return;
    if (waited === 0) say(`waiting for ${pids.length} processes of the last run to end`);
    if (waited >= orphanMs) for (const pid of pids) tryKill(pid);
    await sleep(100);
  }
}

function tryKill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {}
}

async function nodeKind(options: DatacenterOptions, met: Set<Need>, ids: Identities): Promise<NodeKind> {
  if (options.simulated || (options.nodes ?? 2) === 0) return 'simulated';
  const problem = met.has('netns') ? await netnsProblem(ids.prefix) : undefined;
  if (met.has('netns') && problem === undefined) return 'netns';
  options.say?.(`compute nodes are simulated${problem === undefined ? '' : `: ${problem}`}`);
  return 'simulated';
}

/** Whether a broker is started; without what it takes the log is the embedded one, unless it has been in Kafka before. */
function ownKafka(home: Home, met: Set<Need>, say: (line: string) => void): boolean {
  if (met.has('kafka')) return true;
  if (existsSync(home.kafka)) throw new Error(`${home.path} has its log in Kafka, which cannot be started`);
  say('the log is the embedded one');
  return false;
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
  const kafka = options.kafka === true ? ownKafka(home, met, say) : (options.kafka ?? false);

  const base = options.portBase ?? defaultPortBase;
  const ports = planPorts(base === 'free' ? await freeRange(portCount(instances)) : base, instances);
  await checkPorts(ports, { postgres: options.postgres === undefined, kafka: kafka === true });
  const ids = await identities(home, options.nodes ?? 2);
  const kind = await nodeKind(options, met, ids);
  if (options.postgres !== undefined) await checkPostgres(options.postgres);

  const where = locate(ports, { ...options, kafka }, ids, kind);
  const file = new EndpointsFile(home.endpoints);
  let serving = false;
  const current = (): Endpoints => ({ ...where, processes: [...supervisor.processes] });
  const supervisor = new Supervisor({
    say,
    changed: () => {
      // The file is there while the datacenter serves: whoever waits for it finds everything up.
      if (serving) void file.update(current).catch((error) => say(`${home.endpoints}: ${error}`));
    },
  });
  const stop = async () => {
    serving = false;
    await supervisor.stop();
    await rm(home.endpoints, { force: true });
    await unlock();
  };
  const giveUp = () => void supervisor.stop();
  options.signal?.addEventListener('abort', giveUp);
  try {
    options.signal?.throwIfAborted();
    await startAll(supervisor, home, where, ports, { ...options, kafka }, ids, say);
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
    kill: (name, signal) => supervisor.kill(name, signal),
    stop,
  };
}

type Whereabouts = Omit<Endpoints, 'processes'>;

function locate(ports: Ports, options: DatacenterOptions, ids: Identities, kind: NodeKind): Whereabouts {
  const http = (list: readonly number[]) => list.map((port) => `http://127.0.0.1:${port}`);
  const given = options.kafka ?? false;
  return {
    kvstore: ports.kvstore.map((port) => `tcp://127.0.0.1:${port}`),
    cnapi: http(ports.services.cnapi),
    vmapi: http(ports.services.vmapi),
    napi: http(ports.services.napi),
    fwapi: http(ports.services.fwapi),
    adminui: http([ports.adminui]),
    kafka: given === true ? [`127.0.0.1:${ports.kafka}`] : given === false ? null : [...given],
    postgres: options.postgres ?? `postgresql://conger@127.0.0.1:${ports.postgres}/conger`,
    nodes: ids.nodes.map(({ uuid }) => ({ uuid, kind })),
  };
}

async function startAll(
  supervisor: Supervisor,
  home: Home,
  where: Whereabouts,
  ports: Ports,
  options: DatacenterOptions,
  ids: Identities,
  say: (line: string) => void,
): Promise<void> {
  const common: NodeJS.ProcessEnv = {
    ...process.env,
    PATH: searchPath(),
    CONGER_KVSTORE: where.kvstore.join(),
    CONGER_KAFKA: where.kafka?.join() ?? '',
    CONGER_CNAPI: where.cnapi.join(),
    CONGER_VMAPI: where.vmapi.join(),
    CONGER_NAPI: where.napi.join(),
    CONGER_FWAPI: where.fwapi.join(),
    CONGER_POSTGRES: where.postgres,
    CONGER_ENDPOINTS: home.endpoints,
    CONGER_SQL: String(options.sql ?? false),
    CONGER_HOST: '127.0.0.1',
    ...options.env,
  };
  const part = (service: Service, number: number, env: Record<string, string>): Part => {
    const name = `${service}${number}`;
    return {
      name,
      service,
      stage: stages[service],
      launch: () =>
        launchNode({
          entry: join(options.built ?? dist, entries[service]),
          name,
          mark: home.path,
          env: { ...common, CONGER_INSTANCE: name, ...env },
          logFile: home.log(name),
        }),
    };
  };
  const step = async (what: string, parts: readonly Part[]): Promise<void> => {
    const since = performance.now();
    await Promise.all(parts.map((each) => supervisor.start(each)));
    say(`${what}: ready after ${((performance.now() - since) / 1000).toFixed(1)} s`);
  };
  const list = (service: Service, servicePorts: readonly number[]) =>
    servicePorts.map((port, i) => part(service, i, { CONGER_PORT: String(port) }));

  const stores: Promise<void>[] = [];
  if (options.postgres === undefined) {
    const postgres = { directory: home.postgres, port: ports.postgres, logFile: home.log('postgres0'), say };
    stores.push(step('PostgreSQL', [postgresPart(postgres)]));
  }
  if (options.kafka === true) {
    const kafka = { directory: home.kafka, port: ports.kafka, logFile: home.log('kafka0'), say };
    stores.push(step('Kafka', [kafkaPart(kafka)]));
  }
  await Promise.all(stores);
  await step(
    `kvstore x${ports.kvstore.length}`,
    ports.kvstore.map((port, i) =>
      part('kvstore', i, {
        CONGER_PORT: String(port),
        CONGER_METRICS_PORT: String(ports.kvstoreMetrics[i] ?? 0),
      }),
    ),
  );
  const kind = where.nodes[0]?.kind ?? 'simulated';
  const agents = ids.nodes.map((node, i) =>
    part('agent', i, {
      CONGER_NODE: node.uuid,
      CONGER_NODE_KIND: kind,
      CONGER_NODE_HOME: home.node(node.uuid),
      CONGER_NODE_HOSTNAME: node.hostname,
      CONGER_NODE_UNDERLAY: node.underlay,
      CONGER_NODE_PREFIX: ids.prefix,
    }),
  );
  const capture = part('capture', 0, {
    CONGER_PORT: String(ports.capture),
    CONGER_METRICS_PORT: String(ports.capture),
  });
  await Promise.all([
    step('capture', [capture]),
    ...replicated.map((service) =>
      step(`${service} x${ports.services[service].length}`, list(service, ports.services[service])),
    ),
    step('adminui', list('adminui', [ports.adminui])),
    ...(agents.length > 0 ? [step(`compute node x${agents.length} (${kind})`, agents)] : []),
  ]);
}
