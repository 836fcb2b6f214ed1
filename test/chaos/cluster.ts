import { setTimeout as sleep } from 'node:timers/promises';
import { createKv } from '../../kvstore/client.ts';
import type { Kv } from '../../kvstore/types.ts';
import { type Config, loadConfig } from '../../runtime/config.ts';
import { silentLogger } from '../../runtime/log.ts';
import { freeRange } from '../../runtime/ports.ts';
import { startProxy, type TcpProxy } from '../fixtures/proxy.ts';
import type { Random } from '../random.ts';
import { until } from '../until.ts';
import type { Fixtures } from './fixtures.ts';
import { type Kind, Managed } from './managed.ts';
import { patienceMs } from './patience.ts';
import { ensureBuckets } from './resources.ts';

export const partitions = 4;

/** A way between two of the parts, that can be broken. */
export interface Link {
  /** `<from>-<to>`, numbered where there are several: `capture0-postgres0`, `service1-kafka2`. */
  readonly name: string;
  readonly proxy: TcpProxy;
}

/** 2 kvstore servers, 2 captures and some services, each process with its own ways to what it needs. */
export interface Cluster {
  readonly fixtures: Fixtures;
  readonly processes: readonly Managed[];
  readonly links: readonly Link[];
  /** Of the services. */
  readonly urls: readonly string[];
  /** To all kvstore servers; nothing stands between. */
  readonly kv: Kv;
  /** `tcp://127.0.0.1:<port>` */
  readonly kvstores: readonly string[];
  /** How to reach PostgreSQL and the log past all links. */
  readonly config: Config;
  /** Ends every fault: links are whole, processes go on and are armed no more. Resolves when all serve. */
  heal(): Promise<void>;
  stop(): Promise<void>;
}

export interface ClusterOptions {
  readonly fixtures: Fixtures;
  /** Names the database, the slot and the topic. */
  readonly name: string;
  readonly services: number;
  readonly directory: string;
  /** The plans of failpoints of each process. */
  readonly plans: (kind: Kind, name: string) => readonly string[];
  readonly random: Random;
}

export async function startCluster(options: ClusterOptions): Promise<Cluster> {
  const { fixtures, name, directory, plans, random } = options;
  const hosts = await fixtures.database(name);
  const env: Record<string, string> = {
    CONGER_PARTITIONS: String(partitions),
    CONGER_CAPTURE_SLOT: name,
    ...(fixtures.disks === undefined ? {} : { CONGER_CAPTURE_SPOOL: fixtures.disks.spool.directory }),
    ...(fixtures.kafka === undefined
      ? {}
      : {
          CONGER_KAFKA: fixtures.kafka.addresses.join(','),
          CONGER_KAFKA_TOPIC: name,
          CONGER_KAFKA_REPLICAS: String(fixtures.kafka.replicas),
        }),
  };
  const links: Link[] = [];
  const own: TcpProxy[] = [];
  const processes: Managed[] = [];
  const stopped = new AbortController();
  let kv: Kv | undefined;
  const stop = async () => {
    stopped.abort();
    await kv?.close();
    await Promise.all(processes.map((process) => process.stop()));
    await Promise.all(own.map((proxy) => proxy.close()));
    await fixtures.drop(name, name);
  };
  const link = async (linkName: string, port: number) => {
    const proxy = await startProxy(port);
    own.push(proxy);
    links.push({ name: linkName, proxy });
    return proxy.port;
  };
  const linkToPostgres = async (from: string) => {
    const linked = hosts.map(async (host, n) => {
      const url = new URL(host);
      url.port = String(await link(`${from}-postgres${n}`, Number(url.port)));
      return url.href;
    });
    return (await Promise.all(linked)).join(',');
  };
  const linkToKafka = (from: string, way: number) => {
    const proxies = fixtures.kafka?.ways[way];
    if (proxies === undefined) return {};
    links.push(...proxies.map((proxy, n) => ({ name: `${from}-kafka${n}`, proxy })));
    return { CONGER_KAFKA: proxies.map(({ port }) => `127.0.0.1:${port}`).join(',') };
  };
  const make = async (kind: Kind, n: number, port: number, more: Record<string, string> = {}) => {
    const processName = `${kind}${n}`;
    const CONGER_POSTGRES = await linkToPostgres(processName);
    const kafka = kind === 'kvstore' ? {} : linkToKafka(processName, kind === 'capture' ? n : 2 + n);
    const process = new Managed({
      kind,
      name: processName,
      env: { ...env, CONGER_POSTGRES, CONGER_PORT: String(port), ...kafka, ...more },
      directory,
      plans: plans(kind, processName),
    });
    processes.push(process);
    return process;
  };

  void letGoOn(processes, random, stopped.signal);
  try {
    const base = await freeRange(2 + options.services);
    const kvstores = [await make('kvstore', 0, base), await make('kvstore', 1, base + 1)];
    const captures = [await make('capture', 0, 0), await make('capture', 1, 0)];
    await Promise.all([...kvstores, ...captures].map((process) => process.start()));
    const servers = [base, base + 1].map((port) => `tcp://127.0.0.1:${port}`);
    const client = createKv({ servers, log: silentLogger() });
    kv = client;
    // Failpoints may have it that both servers are away for longer than a call is tried.
    const ensured = () => ensureBuckets(client).then(() => true);
    await until('the buckets are there', ensured, patienceMs);
    const linked = [await link('services-kvstore0', base), await link('services-kvstore1', base + 1)];
    const CONGER_KVSTORE = linked.map((port) => `tcp://127.0.0.1:${port}`).join(',');
    const ports = Array.from({ length: options.services }, (_, n) => base + 2 + n);
    const services = await Promise.all(ports.map((port, n) => make('service', n, port, { CONGER_KVSTORE })));
    await Promise.all(services.map((process) => process.start()));
    return {
      fixtures,
      processes,
      // The order in which they came to be is nobody's.
      links: links.toSorted((a, b) => (a.name < b.name ? -1 : 1)),
      urls: ports.map((port) => `http://127.0.0.1:${port}`),
      kv: client,
      kvstores: servers,
      config: loadConfig({ ...env, CONGER_POSTGRES: hosts.join(',') }),
      heal: async () => {
        for (const process of processes) {
          process.disarm();
          process.resume();
        }
        for (const { proxy } of links) proxy.heal();
        await fixtures.heal();
        await Promise.all(processes.map((process) => process.ready()));
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Lets processes go on that a failpoint has stopped, after a while. */
async function letGoOn(processes: readonly Managed[], random: Random, signal: AbortSignal): Promise<void> {
  const since = new Map<Managed, number>();
  while (!signal.aborted) {
    for (const process of processes) {
      if (!process.isStuck()) since.delete(process);
      else if (!since.has(process)) since.set(process, performance.now() + 100 + random.below(3_000));
      else if (performance.now() > (since.get(process) ?? 0)) process.resume();
    }
    await sleep(200);
  }
}
