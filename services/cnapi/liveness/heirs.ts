import { z } from 'zod';
import { startConsumer } from '../../../changefeed/consumer.ts';
import type { ServiceContext } from '../../common/service.ts';
import { statusBucket } from '../models/buckets.ts';
import type { StatusRecord } from '../models/status.ts';
import type { Liveness } from './liveness.ts';

const pingSchema = z.looseObject({ member: z.string() });

const pingTimeoutMs = 2_000;

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
    onAssigned: () => {
      inherit(context, liveness).catch((error: unknown) => {
        log.error({ err: error }, 'cannot look for servers whose instance is gone');
      });
    },
  });
  shutdown.add('liveness consumer', () => consumer.stop());
}

async function inherit({ kv, config, member }: ServiceContext, liveness: Liveness): Promise<void> {
  const running = await kv.find<StatusRecord>(statusBucket.name, '(status=running)', { noLimit: true });
  const others = running.objects.map((object) => object.value).filter((status) => status.instance !== member);
  if (others.length === 0) return;
  const living = await livingMembers(config.cnapi);
  for (const status of others) if (!living.has(status.instance)) liveness.inherit(status);
}

/** Who answers now. One that lives and is not reached has its servers judged wrongly, and says so: `Liveness.written`. */
async function livingMembers(urls: readonly string[]): Promise<Set<string>> {
  const answers = await Promise.all(
    urls.map(async (url) => {
      try {
        const answer = await fetch(`${url}/ping`, { signal: AbortSignal.timeout(pingTimeoutMs) });
        return pingSchema.parse(await answer.json()).member;
      } catch {
        return undefined;
      }
    }),
  );
  return new Set(answers.filter((member) => member !== undefined));
}
