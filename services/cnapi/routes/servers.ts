import { z } from 'zod';
import type { KvObject } from '../../../kvstore/types.ts';
import { CongerError, isCongerError } from '../../../runtime/errors.ts';
import { updateObject } from '../../common/retry.ts';
import type { ServiceContext } from '../../common/service.ts';
import { serversBucket, statusBucket } from '../models/buckets.ts';
import { capacityOf, vmsByServer } from '../models/capacity.ts';
import { type Extras, presentServer, type ServerRecord, serverUpdateSchema } from '../models/server.ts';
import type { StatusRecord } from '../models/status.ts';

const flag = z.enum(['true', 'false']).optional();
const extraNames = [
  'agents',
  'vms',
  'memory',
  'disk',
  'sysinfo',
  'capacity',
  'status',
  'last_heartbeat',
  'all',
] as const;
const commaList = z.string().transform((s) => s.split(',').filter(Boolean));

const listSchema = z.strictObject({
  uuids: commaList.pipe(z.array(z.uuid())).optional(),
  setup: flag,
  headnode: flag,
  reserved: flag,
  reservoir: flag,
  hostname: z
    .string()
    .regex(/^[\w.-]+$/)
    .optional(),
  datacenter: z
    .string()
    .regex(/^[\w.-]+$/)
    .optional(),
  extras: commaList.pipe(z.array(z.enum(extraNames))).optional(),
  fields: commaList.optional(),
  limit: z.coerce.number().int().min(1).max(1000).default(1000),
  offset: z.coerce.number().int().min(0).default(0),
});

export const serverParams = z.object({ uuid: z.uuid() });

/** The servers of the datacenter: list, get, update, delete. */
export function serverRoutes(context: ServiceContext): void {
  const { app, kv } = context;

  app.get('/servers', { schema: { querystring: listSchema } }, async (request) => {
    const { limit, offset, fields, extras = [], ...wanted } = request.query;
    const found = await kv.find<ServerRecord>(serversBucket.name, filterOf(wanted), {
      limit,
      offset,
      sort: { attribute: 'uuid', order: 'ASC' },
    });
    const servers = await present(context, found.objects, extras);
    return fields === undefined ? servers : servers.map((server) => pick(server, fields));
  });

  app.get('/servers/:uuid', { schema: { params: serverParams } }, async (request) => {
    const server = await readServer(context, request.params.uuid);
    return (await present(context, [server], ['all']))[0];
  });

  app.post(
    '/servers/:uuid',
    { schema: { params: serverParams, body: serverUpdateSchema } },
    async (request, reply) => {
      const changes = Object.fromEntries(
        Object.entries(request.body).filter(([, value]) => value !== undefined),
      );
      await updateObject<ServerRecord>(kv, serversBucket.name, request.params.uuid, (server) => {
        if (server === undefined) throw notFound(request.params.uuid);
        return { ...server.value, ...changes };
      });
      return reply.code(204).send();
    },
  );

  app.delete('/servers/:uuid', { schema: { params: serverParams } }, async (request, reply) => {
    const { uuid } = request.params;
    await readServer(context, uuid);
    // The status stays: whoever hears the server goes on to answer for it, and it may register again.
    await kv.del(serversBucket.name, uuid).catch((error: unknown) => {
      throw isCongerError(error, 'ObjectNotFoundError') ? notFound(uuid) : error;
    });
    return reply.code(204).send();
  });
}

/** @throws ResourceNotFound */
export async function readServer(
  { kv }: Pick<ServiceContext, 'kv'>,
  uuid: string,
): Promise<KvObject<ServerRecord>> {
  const server = await kv.tryGet<ServerRecord>(serversBucket.name, uuid);
  if (server === undefined) throw notFound(uuid);
  return server;
}

function notFound(uuid: string): CongerError {
  return new CongerError('ResourceNotFound', `Server ${uuid} not found`);
}

function filterOf({
  uuids,
  ...equal
}: Pick<z.output<typeof listSchema>, 'uuids'> & Record<string, unknown>): string {
  const terms = Object.entries(equal)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `(${name}=${value})`);
  if (uuids !== undefined) terms.push(`(|${uuids.map((uuid) => `(uuid=${uuid})`).join('')})`);
  return `(&(uuid=*)(!(uuid=default))${terms.join('')})`;
}

async function present(
  { kv }: ServiceContext,
  servers: readonly KvObject<ServerRecord>[],
  extras: readonly (typeof extraNames)[number][],
): Promise<Record<string, unknown>[]> {
  if (servers.length === 0) return [];
  const has = (...names: (typeof extraNames)[number][]) =>
    extras.includes('all') || names.some((name) => extras.includes(name));
  const uuids = servers.map((server) => server.key);
  const [statuses, vms] = await Promise.all([
    statusesOf(kv, uuids),
    has('vms', 'capacity', 'memory', 'disk') ? vmsByServer(kv, uuids) : undefined,
  ]);
  return servers.map(({ value }) => {
    const own = vms?.get(value.uuid) ?? [];
    const shown: Extras = {
      last_heartbeat: extras.length > 0,
      sysinfo: has('sysinfo'),
      agents: has('agents'),
      ...(has('capacity', 'memory', 'disk') ? { capacity: capacityOf(value, own) } : {}),
      ...(has('vms') ? { vms: Object.fromEntries(own.map((vm) => [vm.uuid, vm])) } : {}),
    };
    return presentServer(value, statuses.get(value.uuid), shown);
  });
}

async function statusesOf(
  kv: ServiceContext['kv'],
  uuids: readonly string[],
): Promise<Map<string, StatusRecord>> {
  const filter = `(|${uuids.map((uuid) => `(server_uuid=${uuid})`).join('')})`;
  const found = await kv.find<StatusRecord>(statusBucket.name, filter, { noLimit: true });
  return new Map(found.objects.map((object) => [object.key, object.value]));
}

function pick(server: Record<string, unknown>, fields: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(fields.filter((field) => field in server).map((field) => [field, server[field]]));
}
