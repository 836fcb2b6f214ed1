import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Subscription } from '../../changefeed/broadcast.ts';
import { loadConfig } from '../../runtime/config.ts';
import { silentLogger } from '../../runtime/log.ts';
import { Shutdown } from '../../runtime/shutdown.ts';
import { createHttp } from '../common/http.ts';
import type { ServiceContext } from '../common/service.ts';
import type { Health } from './models/health.ts';
import { setupAdminui } from './setup.ts';

const nothing = {
  ...{ capture: [], kvstore: [], cnapi: [], vmapi: [], napi: [], fwapi: [], adminui: [], kafka: null },
  ...{ postgres: 'postgresql:///conger', nodes: [], processes: [] },
};

let home: string;
let file: string;
let shutdown: Shutdown;
let url: string;
const subscriptions = new Set<Subscription>();
/** What each service answers. */
const answers: Record<string, unknown> = {};
const servers: Server[] = [];

beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'conger-adminui-'));
  file = join(home, 'endpoints.json');
  const log = silentLogger();
  shutdown = new Shutdown(log);
  const app = await createHttp({ name: 'adminui', instance: 'adminui0', log });
  const context = {
    app,
    log,
    shutdown,
    config: { ...loadConfig({}), endpointsFile: file },
    client: (name: string) => ({ get: async () => ({ body: answers[name] }) }),
    broadcast: {
      subscribe: (subscription: Subscription) => {
        subscriptions.add(subscription);
        return () => subscriptions.delete(subscription);
      },
    },
  };
  await setupAdminui(context as unknown as ServiceContext);
  shutdown.add('http', () => app.close());
  url = await app.listen({ host: '127.0.0.1', port: 0 });
});

afterEach(async () => {
  await shutdown.run();
  for (const server of servers.splice(0)) server.close();
  await rm(home, { recursive: true, force: true });
});

async function endpoints(some: object): Promise<void> {
  await writeFile(`${file}.new`, JSON.stringify({ ...nothing, ...some }));
  await rename(`${file}.new`, file);
}

async function listening(server: Server): Promise<string> {
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function refused(): Promise<string> {
  const server = createTcpServer();
  const address = await listening(server);
  await new Promise((resolve) => server.close(resolve));
  return address;
}

async function get<T>(path: string): Promise<T> {
  const answer = await fetch(url + path);
  return (await answer.json()) as T;
}

async function follow(): Promise<{ until(text: string): Promise<void>; toTheEnd(): Promise<void> }> {
  const answer = await fetch(`${url}/api/feed`);
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  const next = async () => {
    const { done, value } = await reader.read();
    if (done) return false;
    text += value;
    return true;
  };
  return {
    until: async (wanted) => {
      while (!text.includes(wanted)) if (!(await next())) throw new Error(`ended before ${wanted}: ${text}`);
    },
    toTheEnd: async () => {
      while (await next());
    },
  };
}

describe('the instances', () => {
  it('are all those that should be there, each with what is wrong', async () => {
    const well = await listening(createServer((_request, response) => response.end('{}')));
    const ill = await listening(createServer((_request, response) => response.writeHead(503).end()));
    const open = await listening(createTcpServer());
    const gone = await refused();
    await endpoints({
      capture: [`http://${well}`, `http://${gone}`],
      kvstore: [`tcp://${open}`, `tcp://${gone}`],
      vmapi: [`http://${well}`, `http://${ill}`, `http://${gone}`],
      postgres: [open, gone].map((host) => `postgresql://conger:secret@${host}/conger`).join(),
      nodes: [
        { uuid: 'a', kind: 'netns' },
        { uuid: 'b', kind: 'netns' },
      ],
      processes: [
        { name: 'agent0', pid: 1 },
        { name: 'vmapi0', pid: 2 },
        { name: 'vmapi2', pid: 3 },
      ],
    });
    let rows: Health[] = [];
    const look = async () => {
      rows = await get<Health[]>('/api/instances');
      expect(rows.map(({ name, pid, detail }) => [name, pid, detail])).toEqual([
        ['postgres0', null, null],
        ['postgres1', null, 'not running'],
        ['capture0', null, null],
        ['capture1', null, 'not running'],
        ['kvstore0', null, null],
        ['kvstore1', null, 'not running'],
        ['vmapi0', 2, null],
        ['vmapi1', null, 'answers 503'],
        ['vmapi2', 3, 'starting'],
        ['agent0', 1, null],
        ['agent1', null, 'not running'],
      ]);
    };
    // One that has not answered within 2 s, as on a machine that pauses, is looked at again.
    await vi.waitFor(look, { timeout: 50_000 });
    expect(rows[0]).toMatchObject({ address: open, healthy: true });
    expect(JSON.stringify(rows)).not.toContain('secret');
  });

  it('that cannot be listed are an error that says why', async () => {
    expect(await get('/api/instances')).toMatchObject({
      code: 'ServiceUnavailable',
      message: expect.stringContaining(file),
    });
    await writeFile(file, '{"kvstore":');
    expect(await get('/api/instances')).toMatchObject({ code: 'ServiceUnavailable' });
  });
});

describe('the lists', () => {
  it('hold what the page shows and nothing else', async () => {
    const uuid = '5c2ff1a4-bd0a-4bbb-8c54-5f6a2b8a1d11';
    const shown = {
      uuid,
      alias: null,
      state: 'running',
      server_uuid: null,
      firewall_enabled: null,
      tags: {},
    };
    answers.vmapi = [{ ...shown, nics: null, customer_metadata: { password: 'secret' } }];
    expect(await get('/api/vms')).toEqual([{ ...shown, nics: [] }]);
    answers.cnapi = [
      { uuid, hostname: 'node1', status: 'running', sysinfo: { secret: true } },
      { uuid: 'other', hostname: 'node0', status: 'unknown' },
    ];
    await endpoints({ nodes: [{ uuid, kind: 'simulated' }] });
    expect(await get('/api/nodes')).toEqual([
      { uuid: 'other', hostname: 'node0', status: 'unknown', kind: null },
      { uuid, hostname: 'node1', status: 'running', kind: 'simulated' },
    ]);
  });
});

describe('the feed', () => {
  const change = {
    position: 'p',
    time: 0,
    bucket: 'b',
    key: 'k',
    op: 'put',
    requestId: null,
    value: 'secret',
  };
  const tell = (key: string) => {
    for (const { onChange } of subscriptions) onChange({ ...change, key } as never);
  };

  it('tells of changes, without what they hold, and of processes that come and go', async () => {
    const feed = await follow();
    await feed.until('retry');
    tell('first');
    await feed.until('"key":"first","op":"put","requestId":null}\n\n');
    await endpoints({});
    await feed.until('event: instances');
    await endpoints({});
    tell('second');
    await feed.until('"key":"second"');
  });

  it('ends where changes may have been missed, so that the page reads everything anew', async () => {
    const feed = await follow();
    await feed.until('retry');
    for (const { onGap } of subscriptions) onGap?.();
    await feed.toTheEnd();
  });

  it('ends with the service, and not before', async () => {
    const feed = await follow();
    await feed.until('retry');
    const stopped = shutdown.run();
    tell('late');
    await Promise.all([feed.toTheEnd(), stopped]);
    expect(subscriptions.size).toBe(0);
  });

  it('cuts off a reader that does not read, and goes on without it', async () => {
    const { port, hostname } = new URL(url);
    const deaf = connect({ port: Number(port), host: hostname });
    deaf.write('GET /api/feed HTTP/1.1\r\nhost: a\r\n\r\n');
    await new Promise((resolve) => deaf.once('data', resolve));
    deaf.pause();
    expect(subscriptions.size).toBe(1);
    // More than what the sockets hold between them.
    while (subscriptions.size > 0) {
      for (let n = 0; n < 100; n++) tell('k'.repeat(10_000));
      await new Promise((resolve) => setImmediate(resolve));
    }
    deaf.destroy();
    const feed = await follow();
    await feed.until('retry');
  });
});
