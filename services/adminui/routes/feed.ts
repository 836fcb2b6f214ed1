import type { Change } from '../../../changefeed/types.ts';
import type { ServiceContext } from '../../common/service.ts';
import type { FileWatch } from '../watch.ts';

/** Bytes that may wait for a browser before it is cut off; it connects again by itself. */
const maxWaiting = 1024 * 1024;

/**
 * GET /api/feed: server-sent events. A message is a change as it happens: what changed, not its content. The event
 * `instances` says that a process began or ended. Where changes may have been missed the feed ends: the page connects
 * again, and reads everything anew.
 */
export function feedRoute({ app, broadcast, shutdown }: ServiceContext, instances: FileWatch): void {
  app.get('/api/feed', { schema: { hide: true } }, (request, reply) => {
    reply.hijack();
    const out = reply.raw;
    const send = (event: string) => {
      if (out.destroyed || out.writableEnded) return;
      out.write(event);
      if (out.writableLength > maxWaiting) out.destroy();
    };
    out.writeHead(200, {
      'content-type': 'text/event-stream',
      'cache-control': 'no-cache',
      'x-request-id': request.id,
    });
    send('retry: 500\n\n');
    const end = () => out.end();
    const subscriptions = [
      broadcast.subscribe({
        onChange: (change) => send(`data: ${JSON.stringify(summary(change))}\n\n`),
        onGap: end,
      }),
      instances.listen(() => send('event: instances\ndata:\n\n')),
    ];
    shutdown.signal.addEventListener('abort', end, { once: true });
    out.once('close', () => {
      for (const unsubscribe of subscriptions) unsubscribe();
      shutdown.signal.removeEventListener('abort', end);
    });
  });
}

function summary({ position, time, bucket, key, op, requestId }: Change): object {
  return { position, time, bucket, key, op, requestId };
}
