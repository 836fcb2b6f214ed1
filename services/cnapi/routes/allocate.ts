import { z } from 'zod';
import { CongerError } from '../../../runtime/errors.ts';
import type { ServiceContext } from '../../common/service.ts';
import { serversBucket, statusBucket } from '../models/buckets.ts';
import { capacityOf, vmsByServer } from '../models/capacity.ts';
import { type Capacity, presentServer, type ServerRecord } from '../models/server.ts';
import type { StatusRecord } from '../models/status.ts';

const vmSchema = z.looseObject({
  owner_uuid: z.uuid(),
  ram: z.number().min(0),
  cpu_cap: z.number().min(0).optional(),
  quota: z.union([z.number(), z.string().transform(Number)]).optional(),
});
const allocateSchema = z.strictObject({
  vm: vmSchema,
  image: z.looseObject({}).default({}),
  package: z.looseObject({}).optional(),
  nic_tags: z.array(z.string()).default([]),
  nic_tag_requirements: z.array(z.array(z.string())).optional(),
  servers: z.array(z.uuid()).optional(),
});
const capacitySchema = z.strictObject({ servers: z.array(z.uuid()).optional() }).default({});

/** One step of a choice: what it was about, who was left, and why the others were not. */
interface Step {
  readonly step: string;
  readonly remaining: string[];
  readonly reasons: Record<string, string>;
}

interface Candidate {
  readonly server: ServerRecord;
  readonly status: StatusRecord | undefined;
  readonly vms: number;
  readonly free: Capacity;
}

/**
 * POST /allocate chooses the server for a new machine: set up, not reserved, running, with the networks and the room
 * that it needs, and of these the one with the most memory left, reservoirs last. POST /capacity tells what is left.
 */
export function allocateRoutes(context: ServiceContext): void {
  const { app } = context;

  app.post('/allocate', { schema: { body: allocateSchema } }, async (request) => {
    const { vm, servers, nic_tags } = request.body;
    const steps: Step[] = [];
    let left = await candidates(context, servers);
    const narrow = (step: string, refuse: (candidate: Candidate) => string | undefined) => {
      const reasons: Record<string, string> = {};
      left = left.filter((candidate) => {
        const reason = refuse(candidate);
        if (reason !== undefined) reasons[candidate.server.uuid] = reason;
        return reason === undefined;
      });
      steps.push({ step, remaining: left.map((candidate) => candidate.server.uuid), reasons });
    };
    narrow('Servers which have been setup', ({ server }) => (server.setup ? undefined : 'not set up'));
    narrow('Servers which are not reserved', ({ server }) => (server.reserved ? 'reserved' : undefined));
    narrow('Servers which are currently running', ({ status }) =>
      status?.status === 'running' ? undefined : 'not running',
    );
    narrow('Servers with required networks', ({ server }) => missingTag(server, nic_tags));
    narrow('Servers with enough unreserved RAM', ({ free }) =>
      free.ram >= vm.ram ? undefined : `${free.ram} MiB left`,
    );
    narrow('Servers with enough unreserved CPU', ({ free }) =>
      vm.cpu_cap === undefined || free.cpu >= vm.cpu_cap ? undefined : `${free.cpu} left`,
    );
    const [best] = left.sort(byPreference);
    if (best === undefined) {
      throw new CongerError(
        'NoAllocatableServersError',
        `No compute resources available: ${summary(steps)}`,
        {
          context: { steps },
        },
      );
    }
    const server = presentServer(best.server, best.status, { capacity: best.free, sysinfo: true });
    return { server, steps, imgapiPeers: [] };
  });

  app.post('/capacity', { schema: { body: capacitySchema } }, async (request) => {
    const all = await candidates(context, request.body.servers);
    return { capacities: Object.fromEntries(all.map(({ server, free }) => [server.uuid, free])), errors: {} };
  });
}

async function candidates(
  { kv }: ServiceContext,
  uuids: readonly string[] | undefined,
): Promise<Candidate[]> {
  if (uuids?.length === 0) return [];
  const among = uuids === undefined ? '(uuid=*)' : `(|${uuids.map((uuid) => `(uuid=${uuid})`).join('')})`;
  const everything = { noLimit: true } as const;
  const servers = await kv.find<ServerRecord>(serversBucket.name, `(&${among}(!(uuid=default)))`, everything);
  if (servers.objects.length === 0) return [];
  const [running, vms] = await Promise.all([
    kv.find<StatusRecord>(statusBucket.name, '(status=running)', everything),
    vmsByServer(
      kv,
      servers.objects.map((server) => server.key),
    ),
  ]);
  const statuses = new Map(running.objects.map((object) => [object.key, object.value]));
  return servers.objects.map(({ value }) => {
    const own = vms.get(value.uuid) ?? [];
    return { server: value, status: statuses.get(value.uuid), vms: own.length, free: capacityOf(value, own) };
  });
}

/** Fabrics (`sdc_overlay/...`) ride on the underlay. */
function missingTag(server: ServerRecord, wanted: readonly string[]): string | undefined {
  const provided = new Set(
    Object.values(server.sysinfo['Network Interfaces']).flatMap((nic) => nic['NIC Names']),
  );
  const missing = wanted
    .map((tag) => (tag.startsWith('sdc_overlay') ? 'underlay' : tag))
    .find((tag) => !provided.has(tag));
  return missing === undefined ? undefined : `has no NIC with the tag ${missing}`;
}

function byPreference(a: Candidate, b: Candidate): number {
  const reservoir = Number(a.server.reservoir) - Number(b.server.reservoir);
  return reservoir || b.free.ram - a.free.ram || a.vms - b.vms || (a.server.uuid < b.server.uuid ? -1 : 1);
}

function summary(steps: readonly Step[]): string {
  const failed = steps.find((step) => step.remaining.length === 0);
  const reasons = Object.values(failed?.reasons ?? {});
  return `no ${(failed?.step ?? 'Servers').replace('Servers', 'servers')}${reasons.length > 0 ? ` (${reasons[0]})` : ''}`;
}
