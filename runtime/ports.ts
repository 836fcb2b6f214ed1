import { randomInt } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';

/**
 * Below the ports that kernels give to outgoing connections, from 32768 on: else who tries to reach a server that is
 * down could be given the server's own port, and keep it.
 */
const first = 10_000;
const end = 30_000;

/** How long a server may take until it listens on the port that was found for it. */
const claimMs = 300_000;

/** A port that nobody listens on now, and that no other process finds in the next minutes. */
export function freePort(): Promise<number> {
  return freeRange(1);
}

/** The first of `count` successive ports of that kind. */
export async function freeRange(count: number): Promise<number> {
  for (let attempt = 0; attempt < 200; attempt++) {
    const base = randomInt(first, end - count);
    const ports = Array.from({ length: count }, (_, i) => base + i);
    const claims = await Promise.all(ports.map(claim));
    const free = await Promise.all(ports.map((port) => isPortFree(port)));
    if (claims.every(Boolean) && free.every(Boolean)) return base;
    for (const release of claims) release?.();
  }
  throw new Error(`there are no ${count} successive free ports between ${first} and ${end}`);
}

/**
 * Claims a port among all who look for one here: theirs is the one of that number for UDP, too. Undefined where another
 * has it; else answers how to give it up before its time.
 */
function claim(port: number): Promise<(() => void) | undefined> {
  return new Promise((resolve) => {
    const socket = createSocket('udp4');
    socket.once('error', () => {
      socket.close();
      resolve(undefined);
    });
    socket.bind(port, '127.0.0.1', () => {
      const release = () => {
        clearTimeout(timer);
        socket.close();
      };
      const timer = setTimeout(release, claimMs).unref();
      socket.unref();
      resolve(release);
    });
  });
}

/** Whether `port` can be listened on. */
export function isPortFree(port: number, host = '127.0.0.1'): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, host, () => server.close(() => resolve(true)));
  });
}
