import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { CongerError, messageOf } from '../../../runtime/errors.ts';
import type { ServiceContext } from '../../common/service.ts';

const endpointsSchema = z.looseObject({
  nodes: z.array(z.object({ uuid: z.string(), kind: z.string() })),
  processes: z.array(z.object({ name: z.string(), pid: z.number(), service: z.string() })),
});

const pingTimeoutMs = 2_000;
const rest = ['cnapi', 'vmapi', 'napi', 'fwapi', 'adminui'] as const;

/** One instance as the page shows it. */
interface Instance {
  readonly name: string;
  readonly service: string;
  readonly pid: number;
  readonly url: string | null;
  /** null: the process has no REST address to ask. */
  readonly healthy: boolean | null;
  readonly detail: string | null;
}

/**
 * What the page's tables show, read through the services' own APIs.
 * `/api/instances` asks every instance for its health; the lists are pages of at most 1000.
 */
export function overviewRoutes({ app, config, client }: ServiceContext): void {
  app.get('/ping', async () => ({ status: 'OK', healthy: true }));

  app.get('/api/instances', async () => {
    const endpoints = await readEndpoints(config.endpointsFile);
    return Promise.all(endpoints.processes.map((process) => health(process, urlOf(endpoints, process))));
  });
  app.get('/api/nodes', async () => {
    const [servers, endpoints] = await Promise.all([
      client('cnapi').get<Record<string, unknown>[]>('/servers', { query: { extras: 'status' } }),
      readEndpoints(config.endpointsFile).catch(() => undefined),
    ]);
    const kinds = new Map(endpoints?.nodes.map((node) => [node.uuid, node.kind]));
    return servers.body.map((server) => ({ ...server, kind: kinds.get(String(server.uuid)) ?? null }));
  });
  app.get(
    '/api/vms',
    async () => (await client('vmapi').get('/vms', { query: { limit: 1000, state: 'active' } })).body,
  );
  app.get(
    '/api/networks',
    async () => (await client('napi').get('/networks', { query: { limit: 1000 } })).body,
  );
  app.get('/api/rules', async () => (await client('fwapi').get('/rules', { query: { limit: 1000 } })).body);
}

type Endpoints = z.infer<typeof endpointsSchema>;

async function readEndpoints(path: string): Promise<Endpoints> {
  try {
    return endpointsSchema.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch (error) {
    throw new CongerError(
      'ServiceUnavailable',
      `the list of instances (${path || 'CONGER_ENDPOINTS is not set'}) cannot be read: ${messageOf(error)}`,
    );
  }
}

/** The REST address of a process: the list of its service holds it at the number that ends the process's name. */
function urlOf(endpoints: Endpoints, process: { name: string; service: string }): string | null {
  if (!rest.some((service) => service === process.service)) return null;
  const urls = z.array(z.string()).catch([]).parse(endpoints[process.service]);
  return urls[Number(/\d+$/.exec(process.name)?.[0] ?? 0)] ?? null;
}

async function health(
  process: { name: string; service: string; pid: number },
  url: string | null,
): Promise<Instance> {
  const instance = { ...process, url };
  if (url === null) return { ...instance, healthy: null, detail: null };
  try {
    const answer = await fetch(`${url}/ping`, { signal: AbortSignal.timeout(pingTimeoutMs) });
    return { ...instance, healthy: answer.ok, detail: answer.ok ? null : `answers ${answer.status}` };
  } catch (error) {
    return { ...instance, healthy: false, detail: messageOf(error) };
  }
}
