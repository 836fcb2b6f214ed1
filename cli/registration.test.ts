import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { afterEach, expect, it } from 'vitest';
import { registered } from './registration.ts';

const taken = new Set<Socket>();
const server = createServer((socket) => taken.add(socket.on('error', () => {})));

afterEach(() => {
  for (const socket of taken) socket.destroy();
  server.close();
});

it('is not waited for beyond its time where an instance takes the connection and hangs', async () => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  expect(await registered([url], ['node'], 500)).toEqual(['node']);
  expect(taken.size).toBe(1);
});
