import { z } from 'zod';
import type { ServiceContext } from '../../common/service.ts';
import type { Liveness } from '../liveness/liveness.ts';
import type { heardSchema } from '../liveness/peers.ts';
import { readServer, serverParams } from './servers.ts';

/** Triton's cn-agent tells by REST that it lives (every 5 s) and how its node does (about once a minute). */
export function heartbeatRoutes(context: ServiceContext, liveness: Liveness): void {
  const { app, member } = context;
  const schema = { params: serverParams, body: z.looseObject({}).default({}) };
  for (const event of ['heartbeat', 'status'] as const) {
    app.post(`/servers/:uuid/events/${event}`, { schema }, async (request, reply) => {
      const { uuid } = request.params;
      if (!liveness.hears(uuid)) await readServer(context, uuid);
      await liveness.beat(uuid);
      return reply.code(204).send();
    });
  }

  // For the other instances (liveness/peers.ts).
  app.get(
    '/servers/:uuid/heard',
    { schema: { params: serverParams, hide: true } },
    async (request): Promise<z.output<typeof heardSchema>> => ({
      member,
      heard: liveness.hears(request.params.uuid),
    }),
  );
}
