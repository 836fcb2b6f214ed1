import { Backoff } from '../../../changefeed/backoff.ts';
import { startConsumer } from '../../../changefeed/consumer.ts';
import { messageOf } from '../../../runtime/errors.ts';
import type { ServiceContext } from '../../common/service.ts';
import { statusBucket } from '../models/buckets.ts';
import type { StatusRecord } from '../models/status.ts';
import type { Liveness } from './liveness.ts';
import { livingMembers } from './peers.ts';

/**
 * Servers whose instance dies with them would stay `running` for ever: nobody is left who misses them. So when an
 * instance comes or goes (partitions move), those that were given some look for servers that no living instance hears,
 * and give each the usual silence to be heard of again.
 */
export async function startHeirs(context: ServiceContext, liveness: Liveness): Promise<void> {
  const { kv, reader, log, member, shutdown, broadcast } = context;
  const unsubscribe = broadcast.subscribe({
    buckets: [statusBucket.name],
    onChange: ({ value }) => {
      if (value !== null) liveness.written(value as StatusRecord);
    },
    onGap: () => liveness.missed(),
  });
  shutdown.add('servers heard elsewhere', unsubscribe);
  const consumer = await startConsumer({
    name: 'cnapi-liveness',
    member,
    reader,
    kv,
    log,
    buckets: [statusBucket.name],
    handle: async () => [],
    onAssigned: () => void inheritAtLast(context, liveness),
  });
  shutdown.add('liveness consumer', () => consumer.stop());
}

/** Tries until it has looked, or this instance ends: nothing else would make it look again. */
async function inheritAtLast(context: ServiceContext, liveness: Liveness): Promise<void> {
  const { log, shutdown } = context;
  const backoff = new Backoff(100, 5_000);
  while (!shutdown.signal.aborted) {
    try {
      return await inherit(context, liveness);
    } catch (error) {
      log.error({ err: error }, `cannot look for servers whose instance is gone: ${messageOf(error)}`);
    }
    await backoff.pause(shutdown.signal);
  }
}

async function inherit({ kv, config, member }: ServiceContext, liveness: Liveness): Promise<void> {
  const running = await kv.find<StatusRecord>(statusBucket.name, '(status=running)', { noLimit: true });
  const others = running.objects.map((object) => object.value).filter((status) => status.instance !== member);
  if (others.length === 0) return;
  const living = await livingMembers(config.cnapi);
  for (const status of others) if (!living.has(status.instance)) liveness.inherit(status);
}
