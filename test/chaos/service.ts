import { randomUUID } from 'node:crypto';
import { fastify } from 'fastify';
import { serializerCompiler, validatorCompiler } from 'fastify-type-provider-zod';
import { startBroadcast } from '../../changefeed/broadcast.ts';
import { ensureConsumerBuckets, startConsumer } from '../../changefeed/consumer.ts';
import { httpFeed } from '../../changefeed/feeds/http.ts';
import { openLogReader } from '../../changefeed/log/index.ts';
import type { Change } from '../../changefeed/types.ts';
import { createKv } from '../../kvstore/client.ts';
import { isCongerError } from '../../runtime/errors.ts';
import { runProcess } from '../../runtime/process.ts';
import type { Told } from './history.ts';
import { bucket, ensureBuckets, idleBucket, ledgerBucket, type Value } from './resources.ts';

/**
 * A service as all of Conger's are, of which a run has several: one of a group of consumers, whose effects are the
 * ledger of what was applied; and an instance of `GET /feed`.
 */
await runProcess('chaos', async ({ config, log, shutdown }) => {
  const kv = createKv({ servers: config.kvstore, log });
  shutdown.add('kv', () => kv.close());
  await ensureBuckets(kv);
  await ensureConsumerBuckets(kv);
  const reader = await openLogReader(config, log);
  shutdown.add('log reader', () => reader.close());
  const broadcast = await startBroadcast({ reader, log });
  shutdown.add('broadcast', () => broadcast.stop());

  const app = fastify({ forceCloseConnections: true });
  app.setValidatorCompiler(validatorCompiler);
  app.setSerializerCompiler(serializerCompiler);
  app.setErrorHandler((error, _request, reply) =>
    reply.code(isCongerError(error) ? error.status : 500).send({ message: String(error) }),
  );
  const index = { owner: { type: 'string' } } as const;
  const resource = { all: '(owner=*)', index, present: (value: unknown) => value };
  await app.register(httpFeed, {
    broadcast,
    kv,
    resources: { chaos: { bucket, ...resource }, idle: { bucket: idleBucket, ...resource } },
    bookmarkMs: 250,
  });
  shutdown.add('http', () => app.close());

  const member = `${config.instance}-${randomUUID().slice(0, 8)}`;
  const consumer = await startConsumer({
    name: 'chaos',
    member,
    reader,
    kv,
    log,
    buckets: [bucket],
    // Nothing but the checkpoint keeps an effect from coming twice: each is an object of its own, without a condition.
    handle: async (changes, { partition }) => [
      {
        operation: 'put',
        bucket: ledgerBucket,
        key: randomUUID(),
        value: { kind: 'entry', partition, member, told: changes.map(toldOf) },
      },
    ],
  });
  shutdown.add('consumer', () => consumer.stop());
  return { urls: [await app.listen({ host: config.host, port: config.port })] };
});

function toldOf({ partition, position, key, op, value, previous }: Change): Told {
  const id = (of: unknown) => (of as Value | null)?.id ?? null;
  return { partition, position, key, op, id: id(value), previous: id(previous) };
}
