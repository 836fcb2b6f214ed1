import { afterEach, expect, it } from 'vitest';
import { serveStatus } from './server.ts';

let end = () => {};
afterEach(() => end());

it.each(['//', '/state/', '/%zz'])('answers 404 to %s, which it does not know', async (path) => {
  const source = { state: () => ({ applied: 'p' }), verify: async () => [], reconcile: async () => {} };
  const { server, url } = await serveStatus('127.0.0.1', 0, source);
  end = () => server.close();
  expect((await fetch(`${url}${path}`)).status).toBe(404);
  expect(await (await fetch(`${url}/state?a=b`)).json()).toEqual({ applied: 'p' });
});
