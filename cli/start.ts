import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { loadConfig } from '../runtime/config.ts';
import type { Endpoints } from './endpoints.ts';
import type { Home } from './home.ts';
import { homeLogOf, useLog } from './home-log.ts';
import { searchPath } from './install.ts';
import type { Identities, NodeKind } from './nodes.ts';
import type { DatacenterOptions } from './options.ts';
import { kafkaPart } from './parts/kafka-part.ts';
import { launchNode } from './parts/node-process.ts';
import { postgresPart } from './parts/postgres-part.ts';
import { type Ports, replicated } from './plan.ts';
import { registered } from './registration.ts';
import type { Part, Supervisor } from './supervisor.ts';

/** Where the compiled entry points are: beside this file once it is compiled itself, else in dist/. */
export const dist = import.meta.url.endsWith('.ts')
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

export const agentStage = 4;
/** An agent needs a service, a service the log, the log and every other the KV tier. */
const stages: Readonly<Record<Service, number>> = {
  kvstore: 1,
  capture: 2,
  cnapi: 3,
  vmapi: 3,
  napi: 3,
  fwapi: 3,
  adminui: 4,
  agent: agentStage,
};

/** @throws Error when `npm run build` has not run */
export function checkBuilt(built: string): void {
  const missing = Object.values(entries).filter((entry) => !existsSync(join(built, entry)));
  if (missing.length > 0) throw new Error(`${built} lacks ${missing.join(', ')}: run \`npm run build\``);
}

export type Whereabouts = Omit<Endpoints, 'processes'>;

/** A part that takes longer than this to become ready hangs. */
const readyMs = 90_000;
/** Nodes that CNAPI has not heard of by then are left to register later. */
const registeredMs = 20_000;

async function within<T>(ms: number, work: Promise<T>, complaint: () => string): Promise<T> {
  const settled = new AbortController();
  const late = sleep(ms, undefined, { signal: settled.signal }).then(() => {
    throw new Error(complaint());
  });
  late.catch(() => {});
  try {
    return await Promise.race([work, late]);
  } finally {
    settled.abort();
  }
}

/** Where everything will be. */
export function locate(
  ports: Ports,
  options: DatacenterOptions,
  ids: Identities,
  kind: NodeKind,
): Whereabouts {
  const http = (list: readonly number[]) => list.map((port) => `http://127.0.0.1:${port}`);
  const given = options.kafka ?? false;
  return {
    capture: http(ports.captures),
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

export interface Plan {
  readonly home: Home;
  readonly where: Whereabouts;
  readonly ports: Ports;
  readonly ids: Identities;
  readonly options: DatacenterOptions;
  readonly say: (line: string) => void;
}

/** Starts every part, those that do not need each other at the same time, and resolves when all are ready. */
export async function startAll(supervisor: Supervisor, plan: Plan): Promise<void> {
  const { home, where, ports, ids, options, say } = plan;
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
      log: home.log(name),
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
    await within(readyMs, Promise.all(parts.map((each) => supervisor.start(each))), () => {
      const logs = parts.map(({ log }) => log).join(', ');
      return `${what}: not ready after ${readyMs / 1000} s; see ${logs}`;
    });
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
  const { captureSlot: slot, kafkaTopic } = loadConfig(common);
  await useLog({
    home,
    log: homeLogOf(options.kafka ?? false, kafkaTopic),
    postgres: where.postgres,
    slot,
    say,
  });
  // What is written before the replication slot is there would not be in the log.
  const captures = ports.captures.map((port, i) =>
    part('capture', i, { CONGER_PORT: String(port), CONGER_METRICS_PORT: String(port) }),
  );
  await step(captures.length === 1 ? 'capture' : `capture x${captures.length}`, captures);
  const kvstore = ports.kvstore.map((port, i) =>
    part('kvstore', i, {
      CONGER_PORT: String(port),
      CONGER_METRICS_PORT: String(ports.kvstoreMetrics[i] ?? 0),
    }),
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
  await Promise.all([
    step(`kvstore x${kvstore.length}`, kvstore),
    ...replicated.map((service) =>
      step(`${service} x${ports.services[service].length}`, list(service, ports.services[service])),
    ),
    step('adminui', list('adminui', [ports.adminui])),
    ...(agents.length > 0 ? [step(`compute node x${agents.length} (${kind})`, agents)] : []),
  ]);
  const patience = options.registeredMs ?? registeredMs;
  const nodes = ids.nodes.map((node) => node.uuid);
  const missing = await registered(where.cnapi, nodes, patience);
  if (missing.length > 0) say(`not registered with CNAPI after ${patience / 1000} s: ${missing.join(', ')}`);
}
