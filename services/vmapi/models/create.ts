import { derivedUuid } from '../../common/ids.ts';
import type { WantedNetwork } from './networks.ts';
import type { CreateParams } from './params.ts';
import { isHardware, type Vm, withMetadata } from './vm.ts';

const defaultQuota = 10;
const minSwap = 256;

/** What a call is known by when it is repeated: its request's key, and what it asked for. */
export function callId(requestKey: string, ...what: readonly unknown[]): string {
  return derivedUuid(requestKey, JSON.stringify(what));
}

/** The VM that is asked for, before anything of it is there, with Triton's defaults. */
export function newVm(uuid: string, params: CreateParams, now: Date): Vm {
  const {
    sync: _sync,
    origin: _origin,
    creator_uuid: _creator,
    networks: _networks,
    server_uuid: _server,
    customer_metadata = {},
    internal_metadata = {},
    tags = {},
    ...given
  } = params;
  const ram = params.ram ?? params.max_physical_memory ?? 0;
  const memory = params.max_physical_memory ?? ram;
  const vm: Vm = {
    ...given,
    uuid,
    alias: params.alias ?? null,
    server_uuid: null,
    state: 'provisioning',
    zone_state: null,
    autoboot: params.autoboot ?? true,
    firewall_enabled: params.firewall_enabled ?? false,
    ram,
    max_physical_memory: memory,
    max_swap: params.max_swap ?? Math.max(minSwap, ram * 2),
    ...(isHardware(params.brand) ? {} : { quota: params.quota ?? defaultQuota }),
    cpu_shares: params.cpu_shares ?? Math.max(1, Math.floor(ram / 128)),
    create_timestamp: now.getTime(),
    last_modified: now.toISOString(),
    destroyed: null,
    nics: [],
    resolvers: params.resolvers ?? [],
    customer_metadata,
    internal_metadata,
    internal_metadata_search_array: [],
    tag_map: tags,
    tags: '',
    data_version: 1,
    reported: null,
  };
  return withMetadata(vm, {});
}

/** What the NICs of a new VM are to be: where none is said to be the primary one, the first is. */
export function withPrimary(networks: readonly WantedNetwork[]): WantedNetwork[] {
  return networks.some((network) => network.primary)
    ? [...networks]
    : networks.map((network, index) => ({ ...network, primary: index === 0 }));
}
