import { isDeepStrictEqual } from 'node:util';
import type { TritonResource } from '../../../changefeed/feeds/triton.ts';
import { serversBucket } from './buckets.ts';
import type { ServerRecord } from './server.ts';

const fields = ['setup', 'reserved', 'reservoir', 'sysinfo', 'traits', 'boot_platform', 'last_boot'] as const;

/** Servers in Triton's changefeed. Triton's CNAPI has none of its own; the form is that of the other services. */
export const serverItem: TritonResource = {
  resource: 'server',
  subResources: ['create', 'delete', ...fields],
  bootstrapRoute: '/servers',
  bucket: serversBucket.name,
  toItem: ({ key, value, previous }) => {
    const [now, before] = [value as ServerRecord | null, previous as ServerRecord | null];
    if (now === null) return { subResources: ['delete'], changedResourceId: key };
    if (before === null) return { subResources: ['create'], changedResourceId: key };
    const changed = fields.filter((field) => !isDeepStrictEqual(now[field], before[field]));
    return { subResources: changed, changedResourceId: key };
  },
};
