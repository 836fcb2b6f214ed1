import type { Change } from '../../../changefeed/types.ts';
import type { ServiceContext } from '../../common/service.ts';

/** Bytes that may wait for a browser before it is cut off; it connects again by itself. */
const maxWaiting = 1024 * 1024;

/** GET /api/feed: every change as it happens, as server-sent events: what changed, not its content. */
export function feedRoute({ app, broadcast, shutdown }: ServiceContext): void {
  app.get('/api/feed', { schema: { hide: true } }, (request, reply) => {
    reply.hijack();
    const out = reply.raw;
    out.writeHead(200, {
      'content-type': 'text/event-stream',
      'cache-control': 'no-cache',
      'x-request-id': request.id,
    });
    out.write('retry: 500\n\n');
    const unsubscribe = broadcast.subscribe({
      onChange: (change) => {
        out.write(`data: ${JSON.stringify(summary(change))}\n\n`);
        if (out.writableLength > maxWaiting) out.destroy();
      },
    });
    const end = () => out.end();
    shutdown.signal.addEventListener('abort', end, { once: true });
    out.once('close', () => {
      unsubscribe();
      shutdown.signal.removeEventListener('abort', end);
    });
  });
}

function summary({ position, time, bucket, key, op, requestId }: Change): object {
  return { position, time, bucket, key, op, requestId };
}
