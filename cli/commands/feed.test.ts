import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { describe as line, parseFeed } from './feed.ts';

describe('the arguments of feed', () => {
  it('have their defaults', () => {
    expect(parseFeed(['vm'])).toEqual({
      resource: 'vm',
      filter: undefined,
      since: undefined,
      snapshot: false,
      json: false,
      urls: undefined,
      home: '.conger',
    });
  });

  it('are taken as given', () => {
    const args = ['vm', '--filter', '(state=running)', '--since=abc', '--snapshot', '--json', '--home', '/x'];
    expect(parseFeed([...args, '--url', 'http://a:1, http://b:2'])).toEqual({
      resource: 'vm',
      filter: '(state=running)',
      since: 'abc',
      snapshot: true,
      json: true,
      urls: ['http://a:1', 'http://b:2'],
      home: '/x',
    });
  });

  it.each([
    [[], 'resource'],
    [['vm', 'nic'], 'resource'],
    [['disk'], 'disk'],
    [['toString'], 'toString'],
    [['vm', '--url', 'a:1'], '--url'],
    [['vm', '--fast'], '--fast'],
  ])('%j is refused', (args, why) => {
    expect(() => parseFeed(args)).toThrow(why);
  });
});

describe('a line for people', () => {
  const change = {
    resource: 'vm',
    bucket: 'vms',
    key: 'k',
    etag: 'e',
    previous: null,
    position: 'p',
    partition: 0,
    time: 0,
    requestId: null,
    traceparent: null,
    cursor: 'c',
  };
  it('has when, what and which', () => {
    expect(line({ ...change, type: 'put', value: { a: 1 } })).toBe(
      '1970-01-01T00:00:00.000Z put      k {"a":1}',
    );
    expect(line({ ...change, type: 'delete', value: null })).toBe('1970-01-01T00:00:00.000Z delete   k');
    expect(line({ type: 'bookmark', cursor: 'c' })).toBeUndefined();
  });
});

describe('the command', () => {
  const stops: (() => unknown)[] = [];
  afterEach(async () => {
    for (const stop of stops.splice(0).reverse()) await stop();
  });

  /** A service that answers what it is told to; the queries that it was asked. */
  async function service(status: number, ...lines: object[]) {
    const asked: URLSearchParams[] = [];
    const server = createServer((request, response) => {
      asked.push(new URL(request.url ?? '', 'http://x').searchParams);
      response.writeHead(status);
      for (const one of lines) response.write(`${JSON.stringify(one)}\n`);
      if (status !== 200) response.end();
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    stops.push(() => {
      server.closeAllConnections();
      server.close();
    });
    return { asked, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
  }

  function conger(...args: string[]) {
    const entry = fileURLToPath(new URL('../../dist/cli/conger.js', import.meta.url));
    const child = spawn(process.execPath, [entry, 'feed', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    stops.push(() => child.kill('SIGKILL'));
    // And all that it said has been read.
    const ended = once(child, 'close');
    let errors = '';
    child.stderr.on('data', (text) => {
      errors += text;
    });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    return { child, ended, lines, errors: () => errors };
  }

  it('prints lines until Ctrl-C, and then the cursor to go on from', { timeout: 60_000 }, async () => {
    const { url, asked } = await service(
      200,
      { type: 'bookmark', cursor: 'c1' },
      { type: 'bookmark', cursor: 'c2' },
    );
    const run = conger('vm', '--json', '--filter', '(state=running)', '--since', 'c0', '--url', url);
    expect(JSON.parse((await run.lines.next()).value)).toEqual({ type: 'bookmark', cursor: 'c1' });
    expect(JSON.parse((await run.lines.next()).value)).toEqual({ type: 'bookmark', cursor: 'c2' });
    run.child.kill('SIGINT');
    expect(await run.ended).toEqual([0, null]);
    expect(run.errors()).toBe('--since c2\n');
    expect(Object.fromEntries(asked[0] ?? [])).toEqual({
      resource: 'vm',
      filter: '(state=running)',
      since: 'c0',
    });
  });

  it.each([
    ['PositionGone', 410, 3],
    ['NotIndexedError', 400, 1],
  ])('ends with %s', { timeout: 60_000 }, async (code, status, exit) => {
    const { url } = await service(status, { code, message: 'no such thing' });
    const run = conger('vm', '--since', 'c0', '--url', url);
    expect(await run.ended).toEqual([exit, null]);
    expect(run.errors()).toContain('no such thing');
  });
});
