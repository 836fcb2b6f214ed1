import { z } from 'zod';
import type { ServiceContext } from '../../common/service.ts';
import { partsOf, readEndpoints } from '../models/endpoints.ts';
import { healthOf } from '../models/health.ts';
import { networkRow, nodeRow, ruleRow, vmFields, vmRow } from '../models/rows.ts';

/** How many objects a table shows. */
const limit = 1000;

/**
 * What the page's tables show, read through the services' own APIs. `/api/instances` asks every instance for its
 * health, and lists those too that do not run.
 */
export function overviewRoutes({ app, config, client }: ServiceContext): void {
  app.get('/ping', async () => ({ status: 'OK', healthy: true }));

  app.get('/api/instances', async () =>
    Promise.all(partsOf(await readEndpoints(config.endpointsFile)).map(healthOf)),
  );
  app.get('/api/nodes', async () => {
    const [servers, endpoints] = await Promise.all([
      client('cnapi').get<unknown>('/servers', { query: { extras: 'status', limit } }),
      readEndpoints(config.endpointsFile).catch(() => undefined),
    ]);
    const kinds = new Map(endpoints?.nodes.map((node) => [node.uuid, node.kind]));
    const rows = z.array(nodeRow).parse(servers.body);
    rows.sort((a, b) => a.hostname.localeCompare(b.hostname));
    return rows.map((row) => ({ ...row, kind: kinds.get(row.uuid) ?? null }));
  });
  app.get('/api/vms', async () => {
    const query = { limit, state: 'active', fields: vmFields };
    return z.array(vmRow).parse((await client('vmapi').get<unknown>('/vms', { query })).body);
  });
  app.get('/api/networks', async () =>
    z.array(networkRow).parse((await client('napi').get<unknown>('/networks', { query: { limit } })).body),
  );
  app.get('/api/rules', async () =>
    z.array(ruleRow).parse((await client('fwapi').get<unknown>('/rules', { query: { limit } })).body),
  );
}
