import { once } from 'node:events';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { CongerError } from '../../runtime/errors.ts';
import { silentLogger } from '../../runtime/log.ts';
import { currentTrace } from '../../runtime/trace.ts';
import { type App, bodyLimit, closeHttp, createHttp, requestKey, type validationStyles } from './http.ts';
import { RestClient } from './rest-client.ts';

let app: App | undefined;
afterEach(() => app?.close());

let arrived = () => {};
let released: Promise<void> = Promise.resolve();

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
  app.get('/named/:name', async () => ({}));
  app.get('/unfit', async () => {
    throw new CongerError('InvalidIndexTypeError', 'it contains NUL');
  });
  app.post('/key', async (request) => ({ key: requestKey(request) }));
  app.get('/slow', async () => {
    arrived();
    await released;
    return { done: true };
  });
  app.get('/bug', async () => {
    throw new TypeError('secret detail');
  });
  return app;
}

const json = { 'content-type': 'application/json' };

describe('errors have the form that Triton’s clients expect', () => {
  const wrong = '{"size":"big","colour":1,"taste":2}';

  test.each([
    ['vmapi', 409, 'ValidationFailed', 'MissingParameter'],
    ['cnapi', 500, 'InvalidParameters', 'Invalid'],
  ] as const)('%s: a wrong type, a missing and unknown fields', async (name, status, code, missing) => {
    const http = await service(name);
    const answer = await http.inject({ method: 'POST', url: '/things', headers: json, body: wrong });
    expect(answer.statusCode).toBe(status);
    expect(answer.json()).toMatchObject({
      code,
      errors: [
        { field: 'colour', code: 'Invalid' },
        { field: 'name', code: missing },
        { field: 'size', code: 'Invalid' },
        { field: 'taste', code: 'Invalid' },
      ],
    });
  });

  test.each(['napi', 'fwapi'] as const)('%s: the same, in the words of restify-warden', async (name) => {
    const http = await service(name);
    const answer = await http.inject({ method: 'POST', url: '/things', headers: json, body: wrong });
    expect(answer.statusCode).toBe(422);
    expect(answer.json()).toMatchObject({
      code: 'InvalidParameters',
      message: 'Invalid parameters',
      errors: [
        {
          field: ['colour', 'taste'],
          code: 'UnknownParameters',
          message: 'Unknown parameters: colour, taste',
        },
        { field: 'name', code: 'MissingParameter', message: 'Missing parameter' },
        { field: 'size', code: 'InvalidParameter' },
      ],
    });
    const empty = await http.inject({ method: 'POST', url: '/things', headers: json, body: '' });
    expect(empty.json()).toMatchObject({ code: 'InvalidParameters', message: 'Missing parameters' });
    const list = await http.inject({ method: 'POST', url: '/things', headers: json, body: '[]' });
    expect(list.json().errors).toEqual([
      { field: 'parameters', code: 'InvalidParameter', message: 'Parameters must be objects' },
    ]);
  });

  test('malformed JSON, an oversized body, an unknown path, a known error', async () => {
    const http = await service('vmapi');
    const malformed = await http.inject({ method: 'POST', url: '/things', headers: json, body: '{"size":' });
    expect([malformed.statusCode, malformed.json().code]).toEqual([400, 'InvalidContent']);
    const body = JSON.stringify({ size: 1, name: 'x'.repeat(bodyLimit) });
    const large = await http.inject({ method: 'POST', url: '/things', headers: json, body });
    expect([large.statusCode, large.json().code]).toEqual([413, 'RequestEntityTooLarge']);
    const nowhere = await http.inject({ url: '/nowhere' });
    expect([nowhere.statusCode, nowhere.json().code]).toEqual([404, 'ResourceNotFound']);
    const known = await http.inject({ url: '/known' });
    expect([known.statusCode, known.json()]).toEqual([
      412,
      { code: 'PreconditionFailed', message: 'the etag is another' },
    ]);
  });

  test('a path that the router itself refuses', async () => {
    const http = await service('napi');
    const escaped = await http.inject({ url: '/known/%zz' });
    expect([escaped.statusCode, escaped.json().code]).toEqual([400, 'BadRequest']);
    const long = await http.inject({ url: `/named/${'a'.repeat(513)}` });
    expect([long.statusCode, long.json().code]).toEqual([414, 'BadRequest']);
  });

  test('a value that no index can hold', async () => {
    const http = await service('fwapi');
    const answer = await http.inject({ url: '/unfit' });
    expect(answer.statusCode).toBe(422);
    expect(answer.json()).toMatchObject({
      code: 'InvalidParameters',
      errors: [{ field: 'parameters', code: 'InvalidParameter', message: 'it contains NUL' }],
    });
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

test('a repeat is known by its key, or else by its request id and what it asks for', async () => {
  const http = await service('napi');
  const key = async (headers: Record<string, string>, body: string): Promise<unknown> =>
    (await http.inject({ method: 'POST', url: '/key', headers: { ...json, ...headers }, body })).json().key;
  expect(await key({ 'idempotency-key': 'k', 'x-request-id': 'a' }, '{}')).toBe('k');
  const first = await key({ 'x-request-id': 'a' }, '{"ip":1}');
  expect(await key({ 'x-request-id': 'a' }, '{"ip":1}')).toBe(first);
  expect(await key({ 'x-request-id': 'a' }, '{"ip":2}')).not.toBe(first);
  expect(await key({ 'x-request-id': 'b' }, '{"ip":1}')).not.toBe(first);
});

describe('closing', () => {
  const opened = async (http: App): Promise<Socket> => {
    await http.listen({ host: '127.0.0.1', port: 0 });
    const { port } = http.server.address() as AddressInfo;
    const counted = once(http.server, 'connection');
    const socket = connect(port, '127.0.0.1');
    await counted;
    return socket;
  };

  test('does not wait for a connection on which nothing was sent', async () => {
    const http = await service('vmapi');
    const socket = await opened(http);
    const ended = once(socket, 'close');
    socket.resume();
    await closeHttp(http, 50);
    await ended;
  });

  test('lets a request that is under way end', async () => {
    const http = await service('vmapi');
    const handling = new Promise<void>((resolve) => {
      arrived = resolve;
    });
    let release = () => {};
    released = new Promise((resolve) => {
      release = resolve;
    });
    const socket = await opened(http);
    const answer = fetch(`http://127.0.0.1:${(http.server.address() as AddressInfo).port}/slow`);
    await handling;
    const closed = closeHttp(http, 60_000);
    socket.destroy();
    release();
    expect(await (await answer).json()).toEqual({ done: true });
    await closed;
  });
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

describe('a connection that is no request', () => {
  const late = Object.assign(new Error('late'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' });

  /** What a client reads until its connection ends, after it has sent `text` and its time was over. */
  async function readToEnd(text: string): Promise<string> {
    const http = await service('vmapi');
    await http.listen({ host: '127.0.0.1', port: 0 });
    const accepted = once(http.server, 'connection') as Promise<[Socket]>;
    const client = connect((http.server.address() as { port: number }).port, '127.0.0.1');
    const chunks: Buffer[] = [];
    client.on('data', (chunk: Buffer) => chunks.push(chunk));
    const [socket] = await accepted;
    if (text !== '') {
      client.write(text);
      while (socket.bytesRead === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    http.server.emit('clientError', late, socket);
    await once(client, 'close');
    return Buffer.concat(chunks).toString();
  }

  test('is closed without a word where it never said anything: its client may be about to', async () => {
    expect(await readToEnd('')).toBe('');
  });

  test('is told so where it began one', async () => {
    const answer = await readToEnd('POST /things HTTP/1.1\r\n');
    expect(answer).toMatch(/^HTTP\/1.1 408 /);
    expect(answer).toContain('"code":"BadRequest"');
  });
});
