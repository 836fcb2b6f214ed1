import { z } from 'zod';
import type { ServiceContext } from '../../common/service.ts';
import type { Liveness } from '../liveness/liveness.ts';
import { readServer, serverParams } from './servers.ts';

/** Triton's cn-agent tells by REST that it lives (every 5 s) and how its node does (about once a minute). */
export function heartbeatRoutes(context: ServiceContext, liveness: Liveness): void {
  const schema = { params: serverParams, body: z.looseObject({}).default({}) };
  for (const event of ['heartbeat', 'status'] as const) {
    context.app.post(`/servers/:uuid/events/${event}`, { schema }, async (request, reply) => {
      await readServer(context, request.params.uuid);
      await liveness.beat(request.params.uuid);
      return reply.code(204).send();
    });
  }
}
