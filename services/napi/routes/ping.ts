import { messageOf } from '../../../runtime/errors.ts';
import type { ServiceContext } from '../../common/service.ts';

/** GET /ping in NAPI's form; 503 where the KV tier does not answer. */
export function pingRoute({ app, kv }: ServiceContext): void {
  app.get('/ping', async (_request, reply) => {
    try {
      await kv.ping();
      return {
        healthy: true,
        status: 'OK',
        services: { moray: 'online' },
        config: { fabrics_enabled: true, subnet_alloc_enabled: false },
      };
    } catch (error) {
      void reply.code(503);
      return { healthy: false, status: 'initializing', services: { moray: messageOf(error) } };
    }
  });
}
