import { z } from 'zod';
import { CongerError, type FieldError } from '../../../runtime/errors.ts';
import type { RestClient } from '../../common/rest-client.ts';
import type { WantedNetwork } from '../models/networks.ts';
import { type NapiNetwork, napiNetworkSchema } from '../models/nics.ts';
import { invalidField } from './validation.ts';

export interface ResolvedNetworks {
  /** What was asked for, each network by its UUID. */
  readonly wanted: readonly WantedNetwork[];
  /** The NIC tags that a node must have, each once. */
  readonly nicTags: readonly string[];
  readonly errors: readonly FieldError[];
}

/** Finds the networks that are asked for, among those that the owner may use. */
export async function resolveNetworks(
  napi: Pick<RestClient, 'get'>,
  networks: readonly WantedNetwork[],
  owner: string,
): Promise<ResolvedNetworks> {
  const wanted: WantedNetwork[] = [];
  const tags = new Set<string>();
  const errors: FieldError[] = [];
  for (const { name, ...rest } of networks) {
    const found = await findNetwork(napi, rest.ipv4_uuid, name, owner);
    if (found === undefined) {
      errors.push(invalidField('networks', `No such Network/Pool with id/name: "${rest.ipv4_uuid ?? name}"`));
    } else {
      wanted.push({ ...rest, ipv4_uuid: found.uuid });
      tags.add(found.nic_tag);
    }
  }
  return { wanted, nicTags: [...tags], errors };
}

async function findNetwork(
  napi: Pick<RestClient, 'get'>,
  uuid: string | undefined,
  name: string | undefined,
  owner: string,
): Promise<NapiNetwork | undefined> {
  try {
    const query = { provisionable_by: owner };
    if (uuid !== undefined) {
      return napiNetworkSchema.parse((await napi.get<unknown>(`/networks/${uuid}`, { query })).body);
    }
    const answer = await napi.get<unknown>('/networks', { query: { ...query, name } });
    return z.array(napiNetworkSchema).parse(answer.body)[0];
  } catch (error) {
    // Not there, or not this owner's to use: to the caller it is the same.
    if (error instanceof CongerError && [403, 404, 422].includes(error.status)) return undefined;
    throw error;
  }
}
