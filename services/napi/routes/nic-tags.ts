import { z } from 'zod';
import type { BatchOp, Kv, KvObject } from '../../../kvstore/types.ts';
import { isCongerError } from '../../../runtime/errors.ts';
import { paging, text, uuid } from '../../common/fields.ts';
import { requestKey } from '../../common/http.ts';
import { derivedUuid } from '../../common/ids.ts';
import { retryOnConflict, staleIfGone } from '../../common/retry.ts';
import type { ServiceContext } from '../../common/service.ts';
import { networksBucket, nicTagsBucket } from '../models/buckets.ts';
import {
  duplicateField,
  invalidField,
  missingField,
  notFound,
  refused,
  usedField,
} from '../models/errors.ts';
import { mtuFrom } from '../models/fields.ts';
import type { NetworkRecord } from '../models/network.ts';
import { defaultMtu, type NicTagRecord, tryNicTag } from '../models/nic-tags.ts';
import { networksTurn, readTurn } from '../models/turns.ts';
import { checkIfMatch, sendEtag } from './etag.ts';

const name = text
  .max(31, { error: 'must not be longer than 31 characters', abort: true })
  .regex(/^\w*$/, 'must only contain numbers, letters and underscores');
const mtu = mtuFrom(1500);
const params = z.object({ name });
const createSchema = z.strictObject({ name, mtu: mtu.default(defaultMtu), uuid: uuid.optional() });
const updateSchema = z.strictObject({ name: name.optional(), mtu: mtu.optional() });

/** NIC tags: names of physical networks. */
export function nicTagRoutes({ app, kv }: ServiceContext): void {
  app.get('/nic_tags', { schema: { querystring: z.strictObject(paging) } }, async (request) => {
    const found = await kv.find<NicTagRecord>(nicTagsBucket.name, '(name=*)', {
      ...request.query,
      sort: { attribute: 'name', order: 'ASC' },
    });
    return found.objects.map((object) => object.value);
  });

  app.post('/nic_tags', { schema: { body: createSchema } }, async (request, reply) => {
    const { name: tag, mtu: size } = request.body;
    if (tag === 'admin' && size !== defaultMtu)
      throw refused(invalidField('mtu', `admin nic tag mtu must be ${defaultMtu}`));
    const made = request.body.uuid ?? derivedUuid('napi nic tag', requestKey(request));
    const record: NicTagRecord = { uuid: made, name: tag, mtu: size };
    try {
      sendEtag(reply, (await kv.put(nicTagsBucket.name, tag, record, { etag: null })).etag);
      return record;
    } catch (error) {
      if (!isCongerError(error, 'EtagConflictError')) throw error;
      const present = await tryNicTag(kv, tag);
      if (present?.value.uuid === record.uuid) return present.value;
      throw refused(duplicateField('name'));
    }
  });

  app.get('/nic_tags/:name', { schema: { params } }, async (request, reply) => {
    const tag = await read(kv, request.params.name);
    checkIfMatch(request, tag._etag);
    sendEtag(reply, tag._etag);
    return tag.value;
  });

  app.put('/nic_tags/:name', { schema: { params, body: updateSchema } }, (request, reply) =>
    retryOnConflict(`nic tag ${request.params.name}`, async () => {
      const turn = await readTurn(kv, networksTurn(undefined));
      const tag = await read(kv, request.params.name);
      checkIfMatch(request, tag._etag);
      const next = await updated(kv, tag.value, request.body);
      const ops: BatchOp[] = [
        { operation: 'put', bucket: nicTagsBucket.name, key: next.name, value: next, etag: tag._etag },
      ];
      if (next.name !== tag.key) {
        ops[0] = { operation: 'put', bucket: nicTagsBucket.name, key: next.name, value: next, etag: null };
        ops.push({ operation: 'delete', bucket: nicTagsBucket.name, key: tag.key, etag: tag._etag });
      }
      sendEtag(reply, (await kv.batch([...ops, turn])).etags[0] as string);
      return next;
    }),
  );

  app.delete('/nic_tags/:name', { schema: { params } }, async (request, reply) => {
    await retryOnConflict(`nic tag ${request.params.name}`, async () => {
      const turn = await readTurn(kv, networksTurn(undefined));
      const tag = await read(kv, request.params.name);
      checkIfMatch(request, tag._etag);
      refuseUsed(await networksWith(kv, tag.key));
      const del: BatchOp = {
        operation: 'delete',
        bucket: nicTagsBucket.name,
        key: tag.key,
        etag: tag._etag,
      };
      await kv.batch([del, turn]).catch(staleIfGone);
    });
    return reply.code(204).send();
  });
}

/** @throws ResourceNotFound */
async function read(kv: Kv, tag: string): Promise<KvObject<NicTagRecord>> {
  const found = await tryNicTag(kv, tag);
  if (found === undefined) throw notFound('nic tag not found');
  return found;
}

async function networksWith(kv: Kv, tag: string): Promise<readonly NetworkRecord[]> {
  const found = await kv.find<NetworkRecord>(networksBucket.name, `(nic_tag=${tag})`, { noLimit: true });
  return found.objects.map((network) => network.value);
}

function refuseUsed(networks: readonly NetworkRecord[]): void {
  if (networks.length === 0) return;
  throw refused(...networks.map((network) => usedField('nic_tag', { type: 'network', id: network.uuid })));
}

/** @throws InvalidParameters */
async function updated(
  kv: Kv,
  present: NicTagRecord,
  body: z.output<typeof updateSchema>,
): Promise<NicTagRecord> {
  const next = { ...present, name: body.name ?? present.name, mtu: body.mtu ?? present.mtu };
  const networks = await networksWith(kv, present.name);
  if (next.name !== present.name) refuseUsed(networks);
  if (body.name === undefined && body.mtu === undefined) throw refused(missingField('name'));
  if (present.name === 'admin') throw refused(invalidField('name', 'admin nic tag cannot be updated'));
  if (present.name === 'external' && next.name !== 'external')
    throw refused(invalidField('name', 'external nic tag cannot be renamed'));
  if (next.name !== present.name && (await tryNicTag(kv, next.name)) !== undefined)
    throw refused(duplicateField('name'));
  if (networks.some((network) => network.mtu > next.mtu)) {
    const message = 'nic_tag mtu must be greater than its networks';
    throw refused(...networks.map(({ uuid: id }) => ({ ...invalidField('mtu', message), uuid: id })));
  }
  return next;
}
