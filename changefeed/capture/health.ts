import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { metrics } from '../../runtime/metrics.ts';
import type { Capture } from './capture.ts';
import { walBehindBytes, walHeldBytes } from './metrics.ts';

export interface Health {
  readonly url: string;
  close(): Promise<void>;
}

/**
 * Serves GET /ping (`{ready, active, epoch, position}`; a process that stands by is healthy as well) and GET /metrics.
 */
export async function serveHealth(host: string, port: number, capture: Capture): Promise<Health> {
  const server = createServer((request, response) => {
    const path = request.url?.split('?')[0];
    const answer = path === '/ping' ? ping : path === '/metrics' ? scrape : undefined;
    if (answer === undefined || request.method !== 'GET') {
      response.writeHead(404).end();
      return;
    }
    answer(capture).then(
      ({ type, body }) => response.writeHead(200, { 'content-type': type }).end(body),
      () => response.writeHead(500).end(),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, resolve);
  });
  const { port: bound } = server.address() as AddressInfo;
  return {
    url: `http://${host}:${bound}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function ping(capture: Capture) {
  return { type: 'application/json', body: JSON.stringify({ ready: true, ...capture.status }) };
}

async function scrape(capture: Capture) {
  const wal = await capture.wal().catch(() => undefined);
  if (wal === undefined) {
    walBehindBytes.reset();
    walHeldBytes.reset();
  } else {
    walBehindBytes.set(wal.behind);
    walHeldBytes.set(wal.held);
  }
  return { type: metrics.contentType, body: await metrics.metrics() };
}
