import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { isCongerError } from '../../../runtime/errors.ts';
import { validationError, validationStyles } from '../../common/http.ts';
import type { RestClient } from '../../common/rest-client.ts';
import { updateObject } from '../../common/retry.ts';
import type { ServiceContext } from '../../common/service.ts';
import { serversBucket } from '../models/buckets.ts';
import { applySysinfo, type ServerRecord, type Sysinfo, sysinfoSchema } from '../models/server.ts';
import { serverParams } from './servers.ts';

/** The owner of what belongs to the datacenter itself, as in Triton. */
const adminOwner = '930896af-bf8c-48d4-885c-6573a94b1853';

/**
 * POST /servers/:uuid/sysinfo: a node registers, or tells what changed. Its underlay NIC is made known to NAPI, which
 * is what other nodes find it by. Writes nothing where nothing changed.
 */
export function sysinfoRoutes(context: ServiceContext): void {
  const { app, kv, config } = context;
  const schema = { params: serverParams, body: z.strictObject({ sysinfo: sysinfoSchema }) };
  app.post('/servers/:uuid/sysinfo', { schema }, async (request) => {
    const { sysinfo } = request.body;
    if (sysinfo.UUID !== request.params.uuid) {
      throw validationError(validationStyles.cnapi, [
        { field: 'sysinfo.UUID', code: 'Invalid', message: 'is not the UUID in the path' },
      ]);
    }
    await registerUnderlay(context, sysinfo);
    await updateObject<ServerRecord>(kv, serversBucket.name, sysinfo.UUID, (present) => {
      const next = applySysinfo(present?.value, sysinfo, config.datacenter);
      return isDeepStrictEqual(next, present?.value) ? undefined : next;
    });
    return {};
  });
}

interface KnownNic {
  readonly ip?: string;
  readonly belongs_to_uuid: string;
  readonly underlay?: boolean;
}

type Wanted = Readonly<Record<string, unknown>> & Pick<KnownNic, 'ip' | 'belongs_to_uuid'>;

async function registerUnderlay({ client }: ServiceContext, sysinfo: Sysinfo): Promise<void> {
  for (const nic of Object.values(sysinfo['Network Interfaces'])) {
    if (!nic['NIC Names'].includes('underlay') || nic.ip4addr === undefined) continue;
    const mac = nic['MAC Address'];
    const wanted = {
      owner_uuid: adminOwner,
      belongs_to_uuid: sysinfo.UUID,
      belongs_to_type: 'server',
      cn_uuid: sysinfo.UUID,
      ip: nic.ip4addr,
      nic_tag: 'underlay',
      vlan_id: 0,
      nic_tags_provided: nic['NIC Names'],
      underlay: true,
      state: 'running',
    };
    await putNic(client('napi'), mac, wanted);
  }
}

/** Makes NAPI's NIC of that MAC what is wanted; another registration of the node may be doing the same. */
async function putNic(napi: RestClient, mac: string, wanted: Wanted): Promise<void> {
  const known = await tryNic(napi, mac);
  if (known === undefined) {
    try {
      await napi.post('/nics', { body: { mac, ...wanted } });
    } catch (error) {
      if (!isSame(await tryNic(napi, mac), wanted)) throw error;
    }
  } else if (!isSame(known, wanted)) {
    await napi.put(nicPath(mac), { body: wanted });
  }
}

function nicPath(mac: string): string {
  return `/nics/${encodeURIComponent(mac)}`;
}

async function tryNic(napi: RestClient, mac: string): Promise<KnownNic | undefined> {
  try {
    return (await napi.get<KnownNic>(nicPath(mac))).body;
  } catch (error) {
    if (isCongerError(error, 'ResourceNotFound')) return undefined;
    throw error;
  }
}

function isSame(known: KnownNic | undefined, { ip, belongs_to_uuid }: Wanted): boolean {
  if (known === undefined) return false;
  return known.ip === ip && known.underlay === true && known.belongs_to_uuid === belongs_to_uuid;
}
