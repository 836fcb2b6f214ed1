import { isPortFree } from '../runtime/ports.ts';

/** Services of which `--instances` run, in the order of their ports. */
export const replicated = ['cnapi', 'vmapi', 'napi', 'fwapi'] as const;
export const kvstoreCount = 2;
/** As many as there are ports for. */
export const mostCaptures = 6;
export const defaultPortBase = 2020;

export interface Ports {
  readonly kvstore: readonly number[];
  /** Health and metrics of the kvstore servers, which do not speak HTTP on their own ports. */
  readonly kvstoreMetrics: readonly number[];
  readonly captures: readonly number[];
  readonly postgres: number;
  readonly kafka: number;
  readonly adminui: number;
  readonly services: Readonly<Record<(typeof replicated)[number], readonly number[]>>;
}

/** Ports that one datacenter takes from its base on. */
export function portCount(instances: number): number {
  return blockSize(instances) * (replicated.length + 3);
}

/** Each service has a block of its own, so that a port's tens tell the service. */
function blockSize(instances: number): number {
  return Math.max(10, instances);
}

/**
 * Every port of a datacenter, from `base` (2020) on, with up to ten instances: kvstore 2020-, PostgreSQL 2030, Kafka
 * 2031, capture 2032 (more of them: 2035-), kvstore's metrics 2033-, CNAPI 2040-, VMAPI 2050-, NAPI 2060-, FWAPI 2070-, adminui 2080.
 */
export function planPorts(base: number, instances: number, captures: number): Ports {
  const size = blockSize(instances);
  const block = (index: number, count: number, from = 0) =>
    Array.from({ length: count }, (_, i) => base + index * size + from + i);
  const [postgres = 0, kafka = 0, capture = 0] = block(1, 3);
  const [adminui = 0] = block(2 + replicated.length, 1);
  return {
    kvstore: block(0, kvstoreCount),
    kvstoreMetrics: block(1, kvstoreCount, 3),
    captures: [capture, ...block(1, captures - 1, 5)],
    postgres,
    kafka,
    adminui,
    services: {
      cnapi: block(2, instances),
      vmapi: block(3, instances),
      napi: block(4, instances),
      fwapi: block(5, instances),
    },
  };
}

/** @throws Error naming each port that is taken, and what for it is wanted */
export async function checkPorts(ports: Ports, own: { postgres: boolean; kafka: boolean }): Promise<void> {
  const wanted: [string, number][] = [
    ...ports.kvstore.map((port, i): [string, number] => [`kvstore${i}`, port]),
    ...ports.kvstoreMetrics.map((port, i): [string, number] => [`the metrics of kvstore${i}`, port]),
    ...replicated.flatMap((name) =>
      ports.services[name].map((port, i): [string, number] => [`${name}${i}`, port]),
    ),
    ...ports.captures.map((port, i): [string, number] => [`capture${i}`, port]),
    ['adminui', ports.adminui],
    ...(own.postgres ? [['PostgreSQL', ports.postgres] as [string, number]] : []),
    ...(own.kafka ? [['Kafka', ports.kafka] as [string, number]] : []),
  ];
  const free = await Promise.all(wanted.map(([, port]) => isPortFree(port)));
  const taken = wanted.filter((_, i) => !free[i]);
  if (taken.length === 0) return;
  const list = taken.map(([name, port]) => `${port} (${name})`).join(', ');
  const verb = taken.length === 1 ? 'this port is' : 'these ports are';
  throw new Error(`${verb} taken by another program: ${list}. Choose others with --port-base N`);
}
