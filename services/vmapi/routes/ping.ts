import { messageOf } from '../../../runtime/errors.ts';
import type { ServiceContext } from '../../common/service.ts';

/** GET /ping in VMAPI's form: 503 where the KV tier does not answer. Jobs are this service's own, hence always there. */
export function pingRoute({ app, kv }: ServiceContext): void {
  app.get('/ping', async (_request, reply) => {
    const down = await kv.ping().then(
      () => undefined,
      (error: unknown) => messageOf(error),
    );
    if (down !== undefined) void reply.code(503);
    return {
      dataMigrations: { latestCompletedMigrations: { vms: 1 } },
      healthy: down === undefined,
      initialization: { moray: { status: 'BUCKETS_REINDEX_DONE' } },
      pid: process.pid,
      pingErrors: down === undefined ? {} : { moray: down },
      status: down === undefined ? 'OK' : 'some services are not ready',
      services: { moray: down === undefined ? 'online' : 'offline', wfapi: 'online' },
    };
  });
}
