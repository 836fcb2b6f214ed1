import { z } from 'zod';
import { isCongerError } from '../../../runtime/errors.ts';
import { requestKey } from '../../common/http.ts';
import { derivedUuid } from '../../common/ids.ts';
import { retryOnConflict } from '../../common/retry.ts';
import type { ServiceContext } from '../../common/service.ts';
import { networksBucket, nicTagsBucket } from '../models/buckets.ts';
import { duplicate, inUse, notFound } from '../models/errors.ts';
import { paging } from '../models/fields.ts';
import type { NetworkRecord } from '../models/network.ts';
import { checkIfMatch, sendEtag } from './etag.ts';

export interface NicTagRecord {
  readonly uuid: string;
  readonly name: string;
  readonly mtu: number;
}

const name = z.string().regex(/^\w{1,31}$/, 'must be 1 to 31 letters, digits or underscores');
const mtu = z.coerce.number().int().min(1500).max(9000);
const params = z.object({ name: z.string() });

/** NIC tags: names of physical networks. */
export function nicTagRoutes({ app, kv }: ServiceContext): void {
  const read = async (tag: string) => {
    const found = await kv.tryGet<NicTagRecord>(nicTagsBucket.name, tag);
    if (found === undefined) throw notFound(`nic tag ${tag}`);
    return found;
  };

  app.get('/nic_tags', { schema: { querystring: z.strictObject(paging) } }, async (request) => {
    const found = await kv.find<NicTagRecord>(nicTagsBucket.name, '(name=*)', {
      ...request.query,
      sort: { attribute: 'name', order: 'ASC' },
    });
    return found.objects.map((object) => object.value);
  });

  app.post(
    '/nic_tags',
    { schema: { body: z.strictObject({ name, mtu: mtu.default(1500), uuid: z.uuid().optional() }) } },
    async (request, reply) => {
      const { name: tag, mtu: size } = request.body;
      const record: NicTagRecord = {
        uuid: request.body.uuid ?? derivedUuid('napi nic tag', requestKey(request)),
        name: tag,
        mtu: size,
      };
      try {
        sendEtag(reply, (await kv.put(nicTagsBucket.name, tag, record, { etag: null })).etag);
        return record;
      } catch (error) {
        if (!isCongerError(error, 'EtagConflictError')) throw error;
        const present = await kv.tryGet<NicTagRecord>(nicTagsBucket.name, tag);
        if (present?.value.uuid === record.uuid) return present.value;
        throw duplicate('name');
      }
    },
  );

  app.get('/nic_tags/:name', { schema: { params } }, async (request, reply) => {
    const tag = await read(request.params.name);
    sendEtag(reply, tag._etag);
    return tag.value;
  });

  app.put(
    '/nic_tags/:name',
    { schema: { params, body: z.strictObject({ mtu: mtu.optional() }) } },
    (request, reply) =>
      retryOnConflict(`nic tag ${request.params.name}`, async () => {
        const tag = await read(request.params.name);
        checkIfMatch(request, tag._etag);
        const next = { ...tag.value, ...(request.body.mtu === undefined ? {} : { mtu: request.body.mtu }) };
        sendEtag(reply, (await kv.put(nicTagsBucket.name, tag.key, next, { etag: tag._etag })).etag);
        return next;
      }),
  );

  app.delete('/nic_tags/:name', { schema: { params } }, async (request, reply) => {
    const tag = await read(request.params.name);
    checkIfMatch(request, tag._etag);
    const users = await kv.find<NetworkRecord>(networksBucket.name, `(nic_tag=${tag.key})`, { limit: 100 });
    if (users.count > 0)
      throw inUse(
        'Nic tag',
        users.objects.map((network) => ({ type: 'network', id: network.key })),
      );
    await kv.del(nicTagsBucket.name, tag.key, { etag: tag._etag });
    return reply.code(204).send();
  });
}
