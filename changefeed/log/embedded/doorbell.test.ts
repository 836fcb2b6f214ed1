import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { expect, test } from 'vitest';
import { silentLogger } from '../../../runtime/log.ts';
import type { PrimaryFinder } from '../../../runtime/postgres/primary.ts';
import { Watched } from '../../testing/until.ts';
import { Doorbell } from './doorbell.ts';

/** Says that the primary is at a port, where none is, and counts who asks to be told of another. */
class Astray extends Watched implements PrimaryFinder {
  readonly hosts = 2;
  readonly standbys = [];
  readonly current;
  readonly listeners = new Set<() => void>();
  asked = 0;

  constructor(port: number) {
    super();
    this.current = { url: `postgresql://conger@127.0.0.1:${port}/conger`, timeline: 1 };
  }

  async primary() {
    this.asked++;
    this.changed();
    return this.current;
  }

  suspect(): void {}

  onChange(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  async close(): Promise<void> {}
}

test('attempts to listen that fail leave nothing behind', async () => {
  const finder = new Astray(1);
  const doorbell = new Doorbell(finder, ['channel'], silentLogger());
  const opening = doorbell.open();
  await finder.until(() => finder.asked >= 4);
  expect(finder.listeners.size).toBe(0);
  await doorbell.close();
  await opening;
});

test('a doorbell is closed also while PostgreSQL ends its connection', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const connected = once(server, 'connection');
  const finder = new Astray((server.address() as AddressInfo).port);
  const doorbell = new Doorbell(finder, ['channel'], silentLogger());
  const opening = doorbell.open();
  const [socket] = (await connected) as [Socket];
  await once(socket, 'data');
  socket.destroy();
  await doorbell.close();
  await opening;
  server.close();
});

test('PostgreSQL is asked to end the connection of a process that takes nothing', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const connected = once(server, 'connection');
  const finder = new Astray((server.address() as AddressInfo).port);
  const doorbell = new Doorbell(finder, ['channel'], silentLogger());
  const opening = doorbell.open();
  const [socket] = (await connected) as [Socket];
  const [startup] = (await once(socket, 'data')) as [Buffer];
  expect(startup.toString()).toContain('\0options\0-c tcp_user_timeout=60000\0');
  server.close();
  socket.destroy();
  await finder.until(() => finder.asked >= 3);
  await doorbell.close();
  await opening;
});
