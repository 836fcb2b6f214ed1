import { isDeepStrictEqual } from 'node:util';
import type { FeedResource } from '../../../changefeed/feeds/http.ts';
import type { TritonResource } from '../../../changefeed/feeds/triton.ts';
import type { Change } from '../../../changefeed/types.ts';
import { networksBucket, nicsBucket, nicTagsBucket } from './buckets.ts';
import { formatMac } from './mac.ts';
import { type NetworkRecord, presentNetwork } from './network.ts';
import { allowances, type NicRecord, presentNic } from './nic.ts';

/** NAPI's resources in the feeds: Conger's own, and Triton's. */

export const feedResources: Record<string, FeedResource> = {
  network: {
    bucket: networksBucket.name,
    all: '(uuid=*)',
    index: networksBucket.config.index,
    present: (value) => presentNetwork(value as NetworkRecord),
  },
  nic: {
    bucket: nicsBucket.name,
    all: '(mac=*)',
    index: nicsBucket.config.index,
    present: (value) => presentNic(value as NicRecord, undefined),
  },
  nic_tag: {
    bucket: nicTagsBucket.name,
    all: '(name=*)',
    index: nicTagsBucket.config.index,
    present: (value) => value,
  },
};

const networkFields = { gateway: 'gateway_addr', resolvers: 'resolver_addrs', routes: 'routes' } as const;
const nicFields = {
  primary: 'primary_flag',
  state: 'state',
  ...Object.fromEntries(allowances.map((name) => [name, name])),
};

/** The sub resources that a change is about: create, delete, or the fields that differ. */
function changed({ value, previous }: Change, fields: Readonly<Record<string, string>>): string[] {
  if (value === null) return ['delete'];
  if (previous === null) return ['create'];
  const [now, before] = [value as Record<string, unknown>, previous as Record<string, unknown>];
  return Object.entries(fields)
    .filter(([, stored]) => !isDeepStrictEqual(now[stored], before[stored]))
    .map(([name]) => name);
}

export const tritonResources: readonly TritonResource[] = [
  {
    resource: 'network',
    subResources: ['create', 'delete', ...Object.keys(networkFields)],
    bootstrapRoute: '/networks',
    bucket: networksBucket.name,
    toItem: (change) => ({ subResources: changed(change, networkFields), changedResourceId: change.key }),
  },
  {
    resource: 'nic_tag',
    subResources: ['create', 'delete'],
    bootstrapRoute: '/nic_tags',
    bucket: nicTagsBucket.name,
    toItem: (change) => ({ subResources: changed(change, {}), changedResourceId: change.key }),
  },
  {
    resource: 'nic',
    subResources: ['create', 'delete', ...Object.keys(nicFields)],
    bootstrapRoute: '/nics',
    bucket: nicsBucket.name,
    toItem: (change) => {
      const nic = (change.value ?? change.previous) as NicRecord;
      return {
        subResources: changed(change, nicFields),
        changedResourceId: formatMac(nic.mac),
        extra: {
          belongs_to_uuid: nic.belongs_to_uuid,
          cn_uuid: nic.cn_uuid,
          ...(change.etag === null ? {} : { etag: change.etag }),
        },
      };
    },
  },
];
