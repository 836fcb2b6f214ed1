import { expect, test } from 'vitest';
import { serveHealth } from './health.ts';

test('health follows the check; metrics are always there', async () => {
  let healthy = true;
  let warning: string | undefined;
  const server = await serveHealth('127.0.0.1', 0, async () => {
    if (!healthy) throw new Error('no PostgreSQL server takes connections');
    return warning;
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no address');
  const url = `http://127.0.0.1:${address.port}`;

  expect((await fetch(`${url}/ping`)).status).toBe(200);
  warning = 'the disk is filling up';
  const warned = await fetch(`${url}/ping`);
  expect(warned.status).toBe(200);
  expect(await warned.json()).toEqual({ ping: 'pong', pid: process.pid, status: 'WARNING', warning });
  healthy = false;
  const sick = await fetch(`${url}/ping?x=1`);
  expect(sick.status).toBe(503);
  expect(await sick.json()).toEqual({
    code: 'ServiceUnavailable',
    message: 'no PostgreSQL server takes connections',
  });
  expect(await (await fetch(`${url}/metrics`)).text()).toContain('process_cpu_seconds_total');
  expect((await fetch(`${url}/nosuch`)).status).toBe(404);
  expect((await fetch(`${url}/ping`, { method: 'POST' })).status).toBe(405);
  server.close();
  server.closeAllConnections();
});
