import { z } from 'zod';
import { isCongerError } from '../../../runtime/errors.ts';
import type { StepContext } from '../../common/jobs/steps.ts';
import type { WantedNetwork } from '../models/networks.ts';
import { type NapiNetwork, type NapiNic, napiNetworkSchema, napiNicSchema } from '../models/nics.ts';
import type { Vm } from '../models/vm.ts';
import type { VmJobParts } from './parts.ts';

type Napi = VmJobParts['napi'];

/** The NICs that NAPI has for the VM, first created first. */
export async function nicsOf(napi: Napi, vmUuid: string): Promise<NapiNic[]> {
  const query = { belongs_to_uuid: vmUuid, belongs_to_type: 'zone' };
  const answer = await napi.get<unknown>('/nics', { query });
  const nics = z.array(napiNicSchema).parse(answer.body);
  return nics.sort((a, b) => ((a.created_timestamp ?? '') < (b.created_timestamp ?? '') ? -1 : 1));
}

export async function networksByUuid(
  napi: Napi,
  uuids: readonly string[],
): Promise<ReadonlyMap<string, NapiNetwork>> {
  const found = new Map<string, NapiNetwork>();
  for (const uuid of new Set(uuids)) {
    const answer = await napi.get<unknown>(`/networks/${uuid}`);
    found.set(uuid, napiNetworkSchema.parse(answer.body));
  }
  return found;
}

/**
 * A NIC on each network, in order: those that the VM has there already (but for `taken`), and new ones for the rest.
 */
export async function provisionNics(
  napi: Napi,
  { key }: Pick<StepContext, 'key'>,
  vm: Vm,
  serverUuid: string,
  networks: readonly WantedNetwork[],
  taken: readonly string[],
): Promise<NapiNic[]> {
  const free = (await nicsOf(napi, vm.uuid)).filter((nic) => !taken.includes(nic.mac));
  const addresses = new Set(networks.flatMap((network) => network.ipv4_ips ?? []));
  const nics: NapiNic[] = [];
  for (const [index, wanted] of networks.entries()) {
    const at = free.findIndex((nic) => suits(nic, wanted, addresses));
    const found = at < 0 ? undefined : free.splice(at, 1)[0];
    if (found !== undefined) {
      nics.push(found);
      continue;
    }
    const body = {
      owner_uuid: vm.owner_uuid,
      belongs_to_uuid: vm.uuid,
      belongs_to_type: 'zone',
      cn_uuid: serverUuid,
      state: 'running',
      primary: wanted.primary,
      ...(wanted.ipv4_ips === undefined ? {} : { ip: wanted.ipv4_ips[0] }),
    };
    const headers = { 'idempotency-key': key(`nic ${index}`) };
    const answer = await napi.post<unknown>(`/networks/${wanted.ipv4_uuid}/nics`, { body, headers });
    nics.push(napiNicSchema.parse(answer.body));
  }
  return nics;
}

/** Whether the NIC is what is asked for; one whose address another entry asks for is that entry's. */
function suits(nic: NapiNic, wanted: WantedNetwork, addresses: ReadonlySet<string>): boolean {
  if (nic.network_uuid !== wanted.ipv4_uuid) return false;
  return wanted.ipv4_ips === undefined ? !addresses.has(nic.ip) : wanted.ipv4_ips.includes(nic.ip);
}

/** Makes NICs that NAPI has already the VM's own. */
export async function attachNics(
  napi: Napi,
  vm: Vm,
  serverUuid: string,
  macs: readonly string[],
): Promise<NapiNic[]> {
  const nics: NapiNic[] = [];
  for (const mac of macs) {
    const body = {
      owner_uuid: vm.owner_uuid,
      belongs_to_uuid: vm.uuid,
      belongs_to_type: 'zone',
      cn_uuid: serverUuid,
      state: 'running',
    };
    const answer = await napi.put<unknown>(`/nics/${macPath(mac)}`, { body });
    nics.push(napiNicSchema.parse(answer.body));
  }
  return nics;
}

/** Whether NAPI still has the NIC. */
export async function hasNic(napi: Napi, mac: string): Promise<boolean> {
  try {
    await napi.get(`/nics/${macPath(mac)}`);
    return true;
  } catch (error) {
    if (isCongerError(error, 'ResourceNotFound')) return false;
    throw error;
  }
}

/** Deletes the NIC, if it is there. */
export async function deleteNic(napi: Napi, mac: string): Promise<void> {
  try {
    await napi.delete(`/nics/${macPath(mac)}`);
  } catch (error) {
    if (!isCongerError(error, 'ResourceNotFound')) throw error;
  }
}

/** A MAC in a path, as Triton's clients write it. */
function macPath(mac: string): string {
  return mac.replaceAll(':', '');
}
