import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { EndpointsFile, readEndpoints } from './endpoints.ts';
import { Home, lockHome } from './home.ts';
import { identities } from './nodes.ts';
import { startOf } from './parts/processes.ts';

let home: Home;

beforeEach(async () => {
  home = new Home(await mkdtemp(join(tmpdir(), 'conger-home-')));
  await home.make();
});

afterEach(async () => {
  await rm(home.path, { recursive: true, force: true });
});

describe('the lock', () => {
  it('is held by one, and can be taken once given back', async () => {
    const unlock = await lockHome(home);
    await expect(lockHome(home)).rejects.toThrow(`is in use by process ${process.pid}`);
    await unlock();
    await (await lockHome(home))();
  });

  it('goes to one of those that try at the same time', async () => {
    const tries = await Promise.allSettled(Array.from({ length: 8 }, () => lockHome(home)));
    expect(tries.filter(({ status }) => status === 'fulfilled').length).toBe(1);
  });

  it('does not outlive its process, also when the number belongs to another by now', async () => {
    const other = spawn('sleep', ['60']);
    const started = await startOf(other.pid ?? 0);
    expect(started).toBeDefined();
    await writeFile(home.lock, JSON.stringify({ pid: other.pid, started: `${started}1` }));
    const unlock = await lockHome(home);
    await unlock();
    await writeFile(home.lock, JSON.stringify({ pid: other.pid, started }));
    await expect(lockHome(home)).rejects.toThrow(`is in use by process ${other.pid}`);
    other.kill('SIGKILL');
    await new Promise((resolve) => other.once('exit', resolve));
    await (await lockHome(home))();
  });

  it.runIf(process.platform === 'linux')('does not outlive its process where nobody reaps that', async () => {
    // The shell becomes a program that never waits for the child it inherits.
    const parent = spawn('/bin/sh', ['-c', 'sleep 60 & echo $!; exec sleep 60'], {
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    const [line] = await once(parent.stdout, 'data');
    const pid = Number(String(line));
    const started = await startOf(pid);
    await writeFile(home.lock, JSON.stringify({ pid, started }));
    process.kill(pid, 'SIGKILL');
    while ((await readFile(`/proc/${pid}/stat`, 'utf8')).split(' ')[2] !== 'Z')
      await new Promise(setImmediate);
    await (await lockHome(home))();
    parent.kill('SIGKILL');
  });

  it('that holds no sense is taken over', async () => {
    await writeFile(home.lock, 'half a l');
    await (await lockHome(home))();
  });
});

describe('the compute nodes of a home', () => {
  it('stay the same, with more added and fewer asked for', async () => {
    const two = await identities(home, 2);
    const three = await identities(home, 3);
    expect(three.nodes.slice(0, 2)).toEqual(two.nodes);
    expect(three.prefix).toBe(two.prefix);
    expect(await identities(home, 1)).toEqual({ prefix: two.prefix, nodes: two.nodes.slice(0, 1) });
    expect(await identities(home, 3)).toEqual(three);
  });

  it('have addresses of their own, also past one subnet', async () => {
    const { nodes } = await identities(home, 600);
    expect(new Set(nodes.map(({ underlay }) => underlay)).size).toBe(600);
    expect(new Set(nodes.map(({ uuid }) => uuid)).size).toBe(600);
    for (const { underlay } of nodes) expect(underlay).toMatch(/^10\.99\.\d{1,3}\.[1-9]\d{0,2}\/16$/);
  });
});

describe('endpoints.json', () => {
  it('holds what was current last, however many updates came at once, and leaves no drafts', async () => {
    const file = new EndpointsFile(home.endpoints);
    let pid = 0;
    const current = () => ({
      kvstore: ['tcp://127.0.0.1:2020'],
      cnapi: [],
      vmapi: [],
      napi: [],
      fwapi: [],
      capture: [],
      adminui: [],
      kafka: null,
      postgres: 'postgresql://127.0.0.1/conger',
      nodes: [],
      processes: [{ name: 'kvstore0', pid, service: 'kvstore' }],
    });
    const updates: Promise<void>[] = [];
    for (pid = 1; pid <= 20; pid++) updates.push(file.update(current));
    pid = 20;
    await Promise.all(updates);
    expect((await readEndpoints(home.endpoints)).processes[0]?.pid).toBe(20);
    const text = await readFile(home.endpoints, 'utf8');
    expect(JSON.parse(text)).toEqual(current());
  });
});
