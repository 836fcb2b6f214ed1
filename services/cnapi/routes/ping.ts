import { messageOf } from '../../../runtime/errors.ts';
import type { ServiceContext } from '../../common/service.ts';

/** GET /ping in CNAPI's form; `member` names this life of the instance. 503 where the KV tier does not answer. */
export function pingRoute({ app, kv, member }: ServiceContext): void {
  app.get('/ping', async (_request, reply) => {
    try {
      await kv.ping();
      return { ready: true, member, services: { moray: 'online' } };
    } catch (error) {
      void reply.code(503);
      return { ready: false, member, services: { moray: messageOf(error) } };
    }
  });
}
