import { Backoff } from '../../../changefeed/backoff.ts';
import { startConsumer } from '../../../changefeed/consumer.ts';
import { messageOf } from '../../../runtime/errors.ts';
import type { ServiceContext } from '../../common/service.ts';
import { statusBucket } from '../models/buckets.ts';
import type { StatusRecord } from '../models/status.ts';
import type { Liveness } from './liveness.ts';
import { livingMembers } from './peers.ts';

/**
 * Servers whose instance dies with them would stay `running` for ever: nobody is left who misses them. So when instances
 * come or go the others look for servers that no living instance hears, and give each the usual silence to be heard of
 * again. Resolves when this instance is one that the others would miss.
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
  const look = oneAtATime(() => inheritAtLast(context, liveness));
  let announce = () => {};
  const joined = new Promise<void>((resolve) => {
    announce = resolve;
  });
  const consumer = await startConsumer({
    name: 'cnapi-liveness',
    member,
    reader,
    kv,
    log,
    buckets: [statusBucket.name],
    handle: async () => [],
    onRegrouped: () => {
      announce();
      look();
    },
  });
  shutdown.add('liveness consumer', () => consumer.stop());
  if (shutdown.signal.aborted) announce();
  shutdown.signal.addEventListener('abort', announce, { once: true });
  await joined;
}

/** Calls that come while the work is being done are gathered into one more round of it. */
function oneAtATime(work: () => Promise<void>): () => void {
  let working = false;
  let again = false;
  const rounds = async () => {
    working = true;
    while (again) {
      again = false;
      await work();
    }
    working = false;
  };
  return () => {
    again = true;
    if (!working) void rounds();
  };
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
