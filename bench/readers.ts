import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { Agent, get } from 'node:http';
import { fileURLToPath } from 'node:url';
import { startBroadcast } from '../changefeed/broadcast.ts';
import { httpFeed } from '../changefeed/feeds/http.ts';
import { TestLog } from '../changefeed/testing/log.ts';
import { silentLogger } from '../runtime/log.ts';
import { createHttp } from '../services/common/http.ts';
import { quantile } from './quantile.ts';

/**
 * Many readers of one service's feed: memory of an idle one, a change told to 1,000 of them, and 10,000 that resume
 * after their instance is killed. Instances are processes with a service's HTTP server, and the log in memory; the readers
 * are connections of processes of their own. All share the machine.
 * Usage: node dist/bench/readers.js [idle readers] [readers of a change] [readers that resume]
 */

const [idle, told, resuming] = [2_000, 1_000, 10_000].map((count, i) =>
  Number(process.argv[i + 2] ?? count),
) as [number, number, number];
const changes = 200;
const me = fileURLToPath(import.meta.url);

/** Milliseconds, on a clock that all processes of this machine share. */
const now = () => performance.timeOrigin + performance.now();

if (process.argv[2] === 'instance') await serveFeed();
else if (process.argv[2] === 'readers') await readFeed();
else await main();

/** An instance: told to `append` it tells its readers of a change; `usage` answers what it takes. */
async function serveFeed(): Promise<void> {
  const log = new TestLog(8);
  for (let i = 0; i < 100; i++) log.append(log.make({ key: `k${i}` }));
  const reader = log.reader();
  const broadcast = await startBroadcast({ reader, log: silentLogger() });
  const app = await createHttp({ name: 'vmapi', instance: 'bench', log: silentLogger() });
  const index = { state: { type: 'string' } } as const;
  const thing = { bucket: 'things', all: '(state=*)', index, present: (value: unknown) => value };
  let finds = 0;
  const found = { objects: [], count: 0, snapshot: '1:1:', lsn: '0/0' };
  const kv = {
    find: async () => {
      finds++;
      return found;
    },
  };
  await app.register(httpFeed, { broadcast, kv, resources: { thing } });
  process.on('message', async (message: string) => {
    if (message.startsWith('append')) {
      const [, n] = message.split(' ');
      const value = { state: 'running', sent: 0, pad: 'x'.repeat(1_000) };
      const key = `change${n}`;
      const record = log.make({ key, value });
      log.append(record);
      process.send?.({ appended: now() });
      await reader.goOn();
    } else {
      globalThis.gc?.();
      const { rss, heapUsed } = process.memoryUsage();
      process.send?.({ rss, heapUsed, cpu: process.cpuUsage(), readers: broadcast.readers, finds });
    }
  });
  process.send?.({ url: await app.listen({ host: '127.0.0.1', port: 0 }) });
  process.once('disconnect', () => process.exit());
}

/** Some readers: opens as many as it is told to, and says when each was told of a change, or is back where it was. */
async function readFeed(): Promise<void> {
  const agent = new Agent({ maxSockets: Number.POSITIVE_INFINITY });
  const cursors: string[] = [];
  let ready = 0;
  let times: number[] = [];
  let expected = 0;
  let other = '';
  const open = (url: string, reader: number, snapshot: boolean) => {
    const since = cursors[reader];
    const query = `resource=thing&filter=(state%3Drunning)${since ? `&since=${since}` : ''}${snapshot ? '&snapshot=true' : ''}`;
    const again = () => {
      setTimeout(() => open(other || url, reader, other !== ''), Math.random() * 500);
    };
    const request = get(`${url}/feed?${query}`, { agent }, (answer) => {
      let first = true;
      let rest = '';
      answer.setEncoding('utf8');
      answer.on('error', () => undefined);
      answer.on('close', again);
      answer.on('data', (text: string) => {
        const at = now();
        const lines = (rest + text).split('\n');
        rest = lines.pop() ?? '';
        for (const line of lines) {
          const cursor = /"cursor":"([^"]+)"\}$/.exec(line)?.[1];
          if (cursor !== undefined) cursors[reader] = cursor;
          if (first) {
            first = false;
            if (++ready === expected) process.send?.({ ready });
          }
          if (!line.startsWith('{"type":"put"')) continue;
          times.push(at);
          if (times.length === expected) {
            process.send?.({ times });
            times = [];
          }
        }
      });
    });
    request.on('error', again);
  };
  process.on('message', async (message: { url?: string; count?: number; other?: string }) => {
    if (message.other !== undefined) {
      ready = 0;
      other = message.other;
    } else if (message.url !== undefined && message.count !== undefined) {
      expected = message.count;
      for (let i = 0; i < message.count; i++) {
        open(message.url, i, false);
        // No more at once than a listening socket queues.
        if (i % 50 === 49) await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
  });
  process.once('disconnect', () => process.exit());
}

interface Usage {
  readonly rss: number;
  readonly heapUsed: number;
  readonly cpu: NodeJS.CpuUsage;
  readonly readers: number;
  readonly finds: number;
}

async function start(kind: 'instance' | 'readers'): Promise<ChildProcess> {
  return fork(me, [kind], { execArgv: ['--expose-gc'] });
}

async function startInstance(): Promise<{ child: ChildProcess; url: string }> {
  const child = await start('instance');
  const [{ url }] = (await once(child, 'message')) as [{ url: string }];
  return { child, url };
}

async function usage(child: ChildProcess): Promise<Usage> {
  child.send('usage');
  const [answer] = (await once(child, 'message')) as [Usage];
  return answer;
}

function cpuMs(before: Usage, after: Usage): number {
  return (after.cpu.user + after.cpu.system - before.cpu.user - before.cpu.system) / 1000;
}

/** `count` readers of `url` in `processes` processes, once each has its first line. */
async function readersOf(url: string, count: number, processes: number): Promise<ChildProcess[]> {
  const children = await Promise.all(Array.from({ length: processes }, () => start('readers')));
  await Promise.all(
    children.map(async (child) => {
      const ready = once(child, 'message');
      child.send({ url, count: count / processes });
      await ready;
    }),
  );
  return children;
}

async function measureIdle() {
  const { child, url } = await startInstance();
  // What the first readers bring with them is not the next one's.
  const first = await readersOf(url, 200, 1);
  await usage(child);
  const before = await usage(child);
  const more = await readersOf(url, idle, 2);
  await usage(child);
  const after = await usage(child);
  for (const one of [...first, ...more, child]) one.kill();
  const each = (bytes: number) => (bytes / idle / 1024).toFixed(1);
  return {
    'idle readers': idle,
    'RSS a reader, KB': each(after.rss - before.rss),
    'heap a reader, KB': each(after.heapUsed - before.heapUsed),
  };
}

async function measureTold() {
  const { child, url } = await startInstance();
  const processes = await readersOf(url, told, 2);
  const all: number[] = [];
  const each: number[] = [];
  const run = async (n: number) => {
    const appended = once(child, 'message');
    const seen = processes.map((one) => once(one, 'message'));
    child.send(`append ${n}`);
    const [{ appended: at }] = (await appended) as [{ appended: number }];
    const times = (await Promise.all(seen)).flatMap(([{ times }]) => times as number[]);
    return times.map((time) => time - at);
  };
  for (let n = 0; n < 50; n++) await run(n);
  const before = await usage(child);
  for (let n = 0; n < changes; n++) {
    const times = await run(n);
    all.push(Math.max(...times));
    each.push(...times);
  }
  const after = await usage(child);
  for (const one of [...processes, child]) one.kill();
  all.sort((a, b) => a - b);
  each.sort((a, b) => a - b);
  return {
    readers: told,
    changes,
    'a reader told, p50 ms': quantile(each, 0.5).toFixed(1),
    'a reader, p99 ms': quantile(each, 0.99).toFixed(1),
    'all told, p50 ms': quantile(all, 0.5).toFixed(1),
    'all told, p99 ms': quantile(all, 0.99).toFixed(1),
    'CPU of the instance a change, ms': (cpuMs(before, after) / changes).toFixed(1),
  };
}

async function measureResume() {
  const [one, other] = [await startInstance(), await startInstance()];
  const processes = await readersOf(one.url, resuming, 4);
  const before = await usage(other.child);
  const back = processes.map((each) => once(each, 'message'));
  for (const each of processes) each.send({ other: other.url });
  const start = now();
  one.child.kill('SIGKILL');
  await Promise.all(back);
  const took = now() - start;
  const after = await usage(other.child);
  for (const each of [...processes, other.child]) each.kill();
  return {
    'readers that resume': after.readers,
    'all caught up after, s': (took / 1000).toFixed(2),
    'snapshots read': after.finds,
    'CPU of the instance, s': (cpuMs(before, after) / 1000).toFixed(2),
  };
}

async function main(): Promise<void> {
  console.table([await measureIdle()]);
  console.table([await measureTold()]);
  console.table([await measureResume()]);
}
