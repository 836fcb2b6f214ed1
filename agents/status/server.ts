import { createServer, type Server, type ServerResponse } from 'node:http';
import { messageOf } from '../../runtime/errors.ts';
import { metrics } from '../../runtime/metrics.ts';

export interface StatusSource {
  state(): unknown;
  /** Reads the kernel back: one line for each difference from the desired state. */
  verify(): Promise<string[]>;
  /** Looks at the kernel again and repairs it; resolves once that is done. */
  reconcile(): Promise<void>;
}

function answer(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`);
}

/**
 * The agent's own view, for operators and tests on the node: GET /ping, /state, /verify, /metrics; POST /reconcile.
 * @returns the server and its URL.
 */
export async function serveStatus(
  host: string,
  port: number,
  source: StatusSource,
): Promise<{ server: Server; url: string }> {
  const server = createServer((request, response) => {
    const route = `${request.method} ${request.url?.split('?')[0]}`;
    const serve = async (): Promise<void> => {
      switch (route) {
        case 'GET /ping':
          return answer(response, 200, { status: 'OK' });
        case 'GET /state':
          return answer(response, 200, source.state());
        case 'GET /verify': {
          const differences = await source.verify();
          return answer(response, 200, { equal: differences.length === 0, differences });
        }
        case 'POST /reconcile':
          await source.reconcile();
          return answer(response, 200, { status: 'OK' });
        case 'GET /metrics': {
          response.writeHead(200, { 'content-type': metrics.contentType }).end(await metrics.metrics());
          return;
        }
        default:
          return answer(response, 404, { code: 'ResourceNotFound', message: `${route} does not exist` });
      }
    };
    serve().catch((error: unknown) => {
      answer(response, 500, { code: 'InternalError', message: messageOf(error) });
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, resolve);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the status server has no address');
  return { server, url: `http://${host}:${address.port}` };
}
