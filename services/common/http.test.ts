import { afterEach, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { CongerError } from '../../runtime/errors.ts';
import { silentLogger } from '../../runtime/log.ts';
import { currentTrace } from '../../runtime/trace.ts';
import { type App, bodyLimit, createHttp, type validationStyles } from './http.ts';
import { RestClient } from './rest-client.ts';

let app: App | undefined;
afterEach(() => app?.close());

async function service(name: keyof typeof validationStyles): Promise<App> {
  app = await createHttp({ name, instance: `${name}0`, log: silentLogger() });
  app.post(
    '/things',
    { schema: { body: z.strictObject({ size: z.number().int(), name: z.string() }) } },
    async () => ({
      request: currentTrace()?.requestId,
    }),
  );
  app.get('/known', async () => {
    throw new CongerError('PreconditionFailed', 'the etag is another');
  });
  app.get('/bug', async () => {
    throw new TypeError('secret detail');
  });
  return app;
}

const json = { 'content-type': 'application/json' };

describe('errors have the form that Triton’s clients expect', () => {
  test.each([
    ['vmapi', 409, 'ValidationFailed', 'Invalid'],
    ['napi', 422, 'InvalidParameters', 'InvalidParameter'],
    ['cnapi', 500, 'InvalidParameters', 'Invalid'],
  ] as const)('%s: a wrong type, a missing and an unknown field', async (name, status, code, invalidCode) => {
    const http = await service(name);
    const answer = await http.inject({
      method: 'POST',
      url: '/things',
      headers: json,
      body: '{"size":"big","colour":1}',
    });
    expect(answer.statusCode).toBe(status);
    expect(answer.json()).toMatchObject({
      code,
      errors: [
        { field: 'colour', code: 'UnknownParameters' },
        { field: 'name', code: 'MissingParameter' },
        { field: 'size', code: invalidCode },
      ],
    });
  });

  test('malformed JSON, an oversized body, an unknown path, a known error', async () => {
    const http = await service('vmapi');
    const malformed = await http.inject({ method: 'POST', url: '/things', headers: json, body: '{"size":' });
    expect([malformed.statusCode, malformed.json().code]).toEqual([400, 'InvalidJSON']);
    const body = JSON.stringify({ size: 1, name: 'x'.repeat(bodyLimit) });
    const large = await http.inject({ method: 'POST', url: '/things', headers: json, body });
    expect([large.statusCode, large.json().code]).toEqual([413, 'PayloadTooLarge']);
    const nowhere = await http.inject({ url: '/nowhere' });
    expect([nowhere.statusCode, nowhere.json().code]).toEqual([404, 'ResourceNotFound']);
    const known = await http.inject({ url: '/known' });
    expect([known.statusCode, known.json()]).toEqual([
      412,
      { code: 'PreconditionFailed', message: 'the etag is another' },
    ]);
  });

  test('a bug is answered without its detail, with the request id', async () => {
    const http = await service('vmapi');
    const answer = await http.inject({ url: '/bug', headers: { 'x-request-id': 'abc' } });
    expect(answer.statusCode).toBe(500);
    expect(answer.body).not.toContain('secret');
    expect(answer.body).toContain('abc');
  });
});

test('the request id of the caller is in force in the handler and in the answer', async () => {
  const http = await service('vmapi');
  await http.listen({ host: '127.0.0.1', port: 0 });
  const address = http.server.address() as { port: number };
  const answer = await fetch(`http://127.0.0.1:${address.port}/things`, {
    method: 'POST',
    headers: { ...json, 'x-request-id': 'my-request' },
    body: JSON.stringify({ size: 1, name: 'a' }),
  });
  expect(await answer.json()).toEqual({ request: 'my-request' });
  expect(answer.headers.get('x-request-id')).toBe('my-request');
});

test('the OpenAPI document is at /docs', async () => {
  const http = await service('vmapi');
  const answer = await http.inject({ url: '/docs/json' });
  expect(answer.json().paths['/things'].post.requestBody).toBeDefined();
});

test('the client goes to the instance that lives, and throws what the service answered', async () => {
  const http = await service('vmapi');
  await http.listen({ host: '127.0.0.1', port: 0 });
  const address = http.server.address() as { port: number };
  const client = new RestClient('vmapi', ['http://127.0.0.1:1', `http://127.0.0.1:${address.port}`]);
  try {
    for (let i = 0; i < 5; i++)
      expect((await client.post('/things', { body: { size: i, name: 'a' } })).status).toBe(200);
    await expect(client.get('/known')).rejects.toMatchObject({ code: 'PreconditionFailed', status: 412 });
    await expect(client.get('/nowhere')).rejects.toMatchObject({ code: 'ResourceNotFound' });
  } finally {
    await client.close();
  }
});
