import { randomUUID } from 'node:crypto';
import { fastify } from 'fastify';
import { type DesiredOf, desiredBucket } from '../../../agents/contract/desired.ts';
import type { Broadcast } from '../../../changefeed/broadcast.ts';

/** A network as the stand-in for NAPI has it. */
export interface TestNetwork {
  readonly uuid: string;
  readonly name: string;
  readonly owner_uuid: string;
  readonly vnet_id: number;
  readonly prefix: string;
}

interface TestNic {
  readonly mac: string;
  readonly ip: string;
  readonly network_uuid: string;
  readonly belongs_to_uuid: string;
  readonly [field: string]: unknown;
}

/**
 * Stands in for NAPI and CNAPI: the calls that VMAPI makes, with their documented answers. A repeated request is known
 * by its idempotency-key.
 */
export async function startNeighbours(networks: readonly TestNetwork[], servers: readonly string[]) {
  const nics = new Map<string, TestNic>();
  const made = new Map<string, string>();
  let watched: { readonly call: string; left: number; readonly seen: () => void } | undefined;
  let provisioned = 0;
  let refuse: { readonly call: string; readonly status: number; readonly code: string } | undefined;
  let allocated = 0;

  const app = fastify();
  app.addHook('onRequest', async (request, reply) => {
    const call = `${request.method} ${request.url.split('?')[0]}`;
    if (watched !== undefined && call.startsWith(watched.call) && --watched.left === 0) watched.seen();
    if (refuse !== undefined && call.startsWith(refuse.call)) {
      await reply.code(refuse.status).send({ code: refuse.code, message: `${call} is refused` });
    }
  });
  const missing = (what: string) => ({ code: 'ResourceNotFound', message: `${what} not found` });
  const present = ({ uuid, name, owner_uuid, vnet_id, prefix }: TestNetwork) => ({
    uuid,
    name,
    owner_uuid,
    vnet_id,
    nic_tag: `sdc_overlay/${vnet_id}`,
    vlan_id: 2,
    fabric: true,
    mtu: 1400,
    subnet: `${prefix}.0/24`,
    gateway: `${prefix}.1`,
  });

  app.get<{ Params: { uuid: string }; Querystring: { provisionable_by?: string } }>(
    '/networks/:uuid',
    async (request, reply) => {
      const found = networks.find((network) => network.uuid === request.params.uuid);
      const by = request.query.provisionable_by;
      if (found === undefined) return reply.code(404).send(missing('network'));
      if (by !== undefined && by !== found.owner_uuid) {
        return reply.code(403).send({ code: 'NotAuthorized', message: 'owner cannot provision on network' });
      }
      return present(found);
    },
  );
  app.get<{ Querystring: { name?: string } }>('/networks', async (request) =>
    networks.filter((network) => network.name === request.query.name).map(present),
  );
  app.post<{
    Params: { uuid: string };
    Body: Record<string, unknown> & { belongs_to_uuid: string; ip?: string };
  }>('/networks/:uuid/nics', async (request, reply) => {
    const network = networks.find(({ uuid }) => uuid === request.params.uuid);
    if (network === undefined) return reply.code(404).send(missing('network'));
    const id = String(request.headers['idempotency-key']);
    const before = nics.get(made.get(id) ?? '');
    if (before !== undefined) return before;
    const number = ++provisioned;
    const nic: TestNic = {
      primary: false,
      ...request.body,
      mac: `90:b8:d0:00:00:${number.toString(16).padStart(2, '0')}`,
      ip: request.body.ip ?? `${network.prefix}.${number + 4}`,
      netmask: '255.255.255.0',
      gateway: `${network.prefix}.1`,
      vlan_id: 2,
      nic_tag: `sdc_overlay/${network.vnet_id}`,
      mtu: 1400,
      network_uuid: network.uuid,
      resolvers: ['8.8.8.8'],
      created_timestamp: new Date(Date.now() + number).toISOString(),
    };
    nics.set(nic.mac, nic);
    made.set(id, nic.mac);
    return nic;
  });
  app.get<{ Querystring: { belongs_to_uuid?: string } }>('/nics', async (request) =>
    [...nics.values()].filter((nic) => nic.belongs_to_uuid === request.query.belongs_to_uuid),
  );
  const withColons = (mac: string) => mac.match(/../g)?.join(':') ?? mac;
  app.get<{ Params: { mac: string } }>('/nics/:mac', async (request, reply) => {
    return nics.get(withColons(request.params.mac)) ?? reply.code(404).send(missing('nic'));
  });
  app.delete<{ Params: { mac: string } }>('/nics/:mac', async (request, reply) => {
    const known = nics.delete(withColons(request.params.mac));
    return known ? reply.code(204).send() : reply.code(404).send(missing('nic'));
  });
  app.get<{ Params: { uuid: string } }>('/servers/:uuid', async (request, reply) =>
    servers.includes(request.params.uuid)
      ? { uuid: request.params.uuid }
      : reply.code(404).send(missing(`server ${request.params.uuid}`)),
  );
  app.post('/allocate', async () => ({ server: { uuid: servers[allocated++ % servers.length] } }));

  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  return {
    url,
    nics,
    /** Resolves when calls that begin so have come `times` more times. */
    called: (call: string, times: number) =>
      new Promise<void>((seen) => {
        watched = { call, left: times, seen };
      }),
    /** Answers every call that begins so with an error, until told otherwise. */
    refuse: (next: typeof refuse) => {
      refuse = next;
    },
    stop: () => app.close(),
  };
}

/** Stands in for the nodes' agents: does what is desired at once, and reports it. */
export function startNodes(broadcast: Broadcast, vmapi: readonly string[]) {
  const reboots = new Map<string, number>();
  let away = false;
  const reports: Promise<unknown>[] = [];
  let clock = Date.now();

  const report = (uuid: string, server: string, state: string) => {
    const url = vmapi[reports.length % vmapi.length];
    clock += 1;
    const body = { uuid, state, server_uuid: server, last_modified: new Date(clock).toISOString() };
    reports.push(
      fetch(`${url}/vms/${uuid}`, {
        method: 'PUT',
        headers: { 'content-type': 'application/json', 'x-request-id': randomUUID() },
        body: JSON.stringify({ ...body, zone_state: state === 'stopped' ? 'installed' : state }),
      }),
    );
  };
  const unsubscribe = broadcast.subscribe({
    buckets: [desiredBucket.name],
    onChange: (change) => {
      const desired = (change.value ?? change.previous) as DesiredOf<'vm'> | null;
      if (away || desired === null || desired.kind !== 'vm') return;
      const server = desired.span[0] ?? '';
      const before = change.previous as DesiredOf<'vm'> | null;
      const state = change.value === null ? 'destroyed' : desired.body.state;
      if (before?.body.state === state && before.body.reboots === desired.body.reboots) return;
      reboots.set(desired.body.uuid, desired.body.reboots);
      report(desired.body.uuid, server, state);
    },
  });
  return {
    reboots,
    report,
    setAway: (is: boolean) => {
      away = is;
    },
    stop: async () => {
      unsubscribe();
      await Promise.allSettled(reports);
    },
  };
}
