import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { messageOf } from '../runtime/errors.ts';
import { metrics } from '../runtime/metrics.ts';

/** Answers what is wrong but hinders nobody, in words; rejects where nothing can be served. */
type Check = () => Promise<string | undefined>;

/**
 * Serves GET /ping (200 while `check` resolves, else 503; status `OK`, or `WARNING` with what it answers) and GET /metrics,
 * beside a port that speaks no HTTP.
 */
export async function serveHealth(host: string, port: number, check: Check): Promise<Server> {
  const server = createServer((request, response) => {
    const path = request.url?.split('?')[0];
    if (request.method !== 'GET') reply(response, 405, { code: 'MethodNotAllowed', message: 'GET only' });
    else if (path === '/ping') void ping(check, response);
    else if (path === '/metrics') void sendMetrics(response);
    else reply(response, 404, { code: 'ResourceNotFound', message: `${path} does not exist` });
  });
  server.listen(port, host);
  await once(server, 'listening');
  return server;
}

async function ping(check: Check, response: ServerResponse): Promise<void> {
  try {
    const warning = await check();
    const status = warning === undefined ? { status: 'OK' } : { status: 'WARNING', warning };
    reply(response, 200, { ping: 'pong', pid: process.pid, ...status });
  } catch (error) {
    reply(response, 503, { code: 'ServiceUnavailable', message: messageOf(error) });
  }
}

async function sendMetrics(response: ServerResponse): Promise<void> {
  try {
    const text = await metrics.metrics();
    response.writeHead(200, { 'content-type': metrics.contentType }).end(text);
  } catch (error) {
    reply(response, 500, { code: 'InternalError', message: messageOf(error) });
  }
}

function reply(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}
