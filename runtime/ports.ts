import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';

/**
 * Below the ports that kernels give to outgoing connections, from 32768 on: else who tries to reach a server that is
 * down could be given the server's own port, and keep it.
 */
const first = 10_000;
const end = 30_000;

/** Where to look next: in this process nobody is given what another was given a moment ago and does not listen on yet. */
let next = randomInt(first, end);

/** A port that nobody listens on now. Another process may take it before its user does. */
export function freePort(): Promise<number> {
  return freeRange(1);
}

/** The first of `count` successive ports that are all free now. */
export async function freeRange(count: number): Promise<number> {
  for (let seen = 0; seen < end - first; seen += count) {
    if (next + count > end) next = first;
    const base = next;
    next += count;
    const free = await Promise.all(Array.from({ length: count }, (_, i) => isPortFree(base + i)));
    if (free.every(Boolean)) return base;
  }
  throw new Error(`there are no ${count} successive free ports between ${first} and ${end}`);
}

/** Whether `port` can be listened on. */
export function isPortFree(port: number, host = '127.0.0.1'): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, host, () => server.close(() => resolve(true)));
  });
}
