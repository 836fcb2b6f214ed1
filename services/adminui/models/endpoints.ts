import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { CongerError, messageOf } from '../../../runtime/errors.ts';
import { hostsOf } from '../../../runtime/postgres/hosts.ts';

const urls = z.array(z.string());

/** What adminui reads of endpoints.json. `processes` are those that run now, the lists all that should. */
const endpointsSchema = z.object({
  capture: urls,
  kvstore: urls,
  cnapi: urls,
  vmapi: urls,
  napi: urls,
  fwapi: urls,
  adminui: urls,
  kafka: urls.nullable(),
  postgres: z.string(),
  nodes: z.array(z.object({ uuid: z.string(), kind: z.string() })),
  processes: z.array(z.object({ name: z.string(), pid: z.number() })),
});

export type Endpoints = z.output<typeof endpointsSchema>;

/** An instance that should be there, whether it is or not. */
export interface Part {
  /** `vmapi0` */
  readonly name: string;
  /** null: it does not run, or on a machine that is not ours. */
  readonly pid: number | null;
  /** `host:port`; null: nobody connects to it. */
  readonly address: string | null;
  /** What is asked about its health: its /ping, whether it takes connections, or whether its process is there. */
  readonly check: 'ping' | 'connect' | 'process';
}

/** @throws CongerError when there is no file, or it is not one */
export async function readEndpoints(path: string): Promise<Endpoints> {
  try {
    return endpointsSchema.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch (error) {
    throw new CongerError(
      'ServiceUnavailable',
      `the list of instances (${path || 'CONGER_ENDPOINTS is not set'}) cannot be read: ${messageOf(error)}`,
    );
  }
}

/** Every part of a datacenter, in the order of the picture: what a part needs comes before it. */
export function partsOf(endpoints: Endpoints): Part[] {
  const pids = new Map(endpoints.processes.map(({ name, pid }) => [name, pid]));
  const list = (name: string, addresses: readonly (string | null)[], check: Part['check']): Part[] =>
    addresses.map((address, i) => ({
      name: `${name}${i}`,
      pid: pids.get(`${name}${i}`) ?? null,
      address,
      check: address === null ? 'process' : check,
    }));
  const served = (['cnapi', 'vmapi', 'napi', 'fwapi', 'adminui'] as const).flatMap((service) =>
    list(service, endpoints[service].map(hostOf), 'ping'),
  );
  return [
    ...list('postgres', hostsOf(endpoints.postgres).map(hostOf), 'connect'),
    ...list('kafka', endpoints.kafka ?? [], 'connect'),
    ...list('capture', endpoints.capture.map(hostOf), 'ping'),
    ...list('kvstore', endpoints.kvstore.map(hostOf), 'connect'),
    ...served,
    ...list(
      'agent',
      endpoints.nodes.map(() => null),
      'process',
    ),
  ];
}

/** `host:port` alone: a URL may hold a password. */
function hostOf(url: string): string | null {
  return new URL(url).host || null;
}
