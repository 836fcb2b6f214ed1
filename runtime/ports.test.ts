import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { expect, test, vi } from 'vitest';

/** Where everyone looks next. */
let next: number;

vi.mock('node:crypto', () => ({ randomInt: () => next++ }));

/** What looks for ports, as another process has it. */
async function another(): Promise<typeof import('./ports.ts')> {
  vi.resetModules();
  return import('./ports.ts');
}

test('those who look at the same time find different ports, though nobody listens yet', async () => {
  const found: number[] = [];
  for (let n = 0; n < 3; n++) {
    const { freePort, freeRange } = await another();
    next = 15_000;
    const base = await freeRange(3);
    next = 15_000;
    found.push(base, base + 1, base + 2, await freePort());
  }
  expect(new Set(found).size).toBe(found.length);
});

test('a port that somebody listens on is not found', async () => {
  const { freePort, freeRange, isPortFree } = await another();
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  expect(await isPortFree(port)).toBe(false);
  next = port;
  expect(await freePort()).not.toBe(port);
  next = port - 2;
  expect(await freeRange(3)).toBeGreaterThan(port);
  server.close();
});
