import { createRequire } from 'node:module';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { setupNapi } from '../../services/napi/setup.ts';
import { type Instance, type Stack, startStack } from '../fixtures/stack.ts';

/**
 * Triton's own case: two instances of a service, each with a listener of the npm package `changefeed`, and 20 changes.
 * `npm run triton-listeners` does it 100 times.
 */

const rounds = Number(process.env.CONGER_TEST_LISTENER_ROUNDS ?? 5);
const changes = 20;
const eventually = <T>(check: () => T | Promise<T>) => vi.waitFor(check, { timeout: 60_000, interval: 20 });

interface Listener {
  register(): void;
  on(event: string, handler: (value: never) => void): void;
  read(): { readonly changedResourceId: string } | null;
  close(): void;
}
const { createListener } = createRequire(import.meta.url)('changefeed') as {
  createListener(options: object): Listener;
};
const quiet = { trace() {}, debug() {}, info() {}, warn() {}, error() {}, child: () => quiet };

let stack: Stack;
let instances: Instance[];

beforeAll(async () => {
  stack = await startStack();
  instances = [
    await stack.start('napi', (context) => setupNapi(context)),
    await stack.start('napi', (context) => setupNapi(context)),
  ];
});

afterAll(() => stack?.close());

/** A registered listener of one instance, and the ids of what it was told. */
async function listen(url: string, version: 1 | 2) {
  const kind = { resource: 'nic_tag', subResources: ['create'] };
  const listener = createListener({
    log: quiet,
    url,
    instance: 'listener',
    service: 'test',
    ...(version === 1 ? { changeKind: kind } : { resources: [kind] }),
  });
  const ids: string[] = [];
  let registered = false;
  listener.on('bootstrap', () => {
    registered = true;
  });
  listener.on('readable', () => {
    for (let item = listener.read(); item !== null; item = listener.read()) ids.push(item.changedResourceId);
  });
  listener.register();
  await eventually(() => expect(registered).toBe(true));
  return { ids, close: () => listener.close() };
}

async function createTag(url: string, name: string): Promise<void> {
  const answer = await fetch(`${url}/nic_tags`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ name }),
  });
  expect(answer.status).toBe(200);
}

test(
  `${rounds} times, the listener of each of two instances is told of 20 changes out of 20`,
  async () => {
    const counts: string[] = [];
    for (let round = 0; round < rounds; round++) {
      const version = round % 2 === 0 ? 1 : 2;
      const listeners = await Promise.all(instances.map(({ url }) => listen(url, version)));
      const names = Array.from({ length: changes }, (_, i) => `round${round}_${i}`);
      await Promise.all(names.map((name, i) => createTag(instances[i % 2]?.url ?? '', name)));
      for (const { ids } of listeners) await eventually(() => expect(new Set(ids).size).toBe(changes));
      // What was told twice would have come before the next change.
      const last = `round${round}_last`;
      await createTag(instances[0]?.url ?? '', last);
      for (const { ids } of listeners) await eventually(() => expect(ids).toContain(last));
      for (const { ids } of listeners) expect(ids.toSorted()).toEqual([...names, last].toSorted());
      counts.push(listeners.map(({ ids }) => ids.length - 1).join(' and '));
      for (const listener of listeners) listener.close();
    }
    expect(new Set(counts)).toEqual(new Set([`${changes} and ${changes}`]));
  },
  60_000 + rounds * 30_000,
);
