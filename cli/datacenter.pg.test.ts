import { fork } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { freeRange } from '../runtime/ports.ts';
import { startPostgres, type TestPostgres } from '../test/fixtures/postgres.ts';
import { type Datacenter, startDatacenter } from './datacenter.ts';
import { readEndpoints } from './endpoints.ts';
import type { DatacenterOptions } from './options.ts';
import { portCount } from './plan.ts';
import { entries } from './start.ts';

/** Stands in for every process: serves /ping on its port where it has one, and shows its environment. */
const fake = `
import { createServer } from 'node:http';
const { CONGER_PORT, CONGER_METRICS_PORT, CONGER_INSTANCE } = process.env;
const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => name.startsWith('CONGER_')));
const server = createServer((request, response) => response.end(JSON.stringify(environment)));
server.listen(Number(CONGER_PORT ?? 0), '127.0.0.1', () => {
  process.send({ ready: { urls: ['http://127.0.0.1:' + server.address().port] } });
});
console.log(JSON.stringify({ level: 'info', msg: 'up', environment }));
process.on('SIGTERM', () => process.exit(0));
process.on('disconnect', () => process.exit(0));
`;

let directory: string;
let built: string;
let running: Datacenter | undefined;
/** For the datacenters that need not bring one of their own. */
let shared: TestPostgres;

beforeAll(async () => {
  shared = await startPostgres({ fsync: 'off' });
});

afterAll(() => shared.stop());

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'conger-datacenter-'));
  // PostgreSQL's own user must reach the data under it.
  await chmod(directory, 0o755);
  built = join(directory, 'dist');
  for (const entry of Object.values(entries)) {
    await mkdir(dirname(join(built, entry)), { recursive: true });
    await writeFile(join(built, entry), fake);
  }
  await writeFile(join(built, 'package.json'), '{"type":"module"}');
});

afterEach(async () => {
  await running?.stop();
  running = undefined;
  await rm(directory, { recursive: true, force: true });
});

/** One that brings its own PostgreSQL. */
async function startWhole(options: Partial<DatacenterOptions> = {}): Promise<Datacenter> {
  const home = join(directory, 'home');
  running = await startDatacenter({
    home,
    built,
    portBase: 'free',
    simulated: true,
    registeredMs: 0,
    ...options,
  });
  return running;
}

function start(options: Partial<DatacenterOptions> = {}): Promise<Datacenter> {
  return startWhole({ postgres: shared.url, ...options });
}

async function environmentOf(url: string | undefined): Promise<Record<string, string>> {
  const response = await fetch(`${url}/ping`);
  return (await response.json()) as Record<string, string>;
}

async function query(url: string, sql: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

describe('a datacenter', { timeout: 180_000 }, () => {
  it('runs every part, tells each where the others are, and writes endpoints.json', async () => {
    const { endpoints, home } = await startWhole({ instances: 3, nodes: 1, sql: true });
    expect(await readEndpoints(home.endpoints)).toEqual(endpoints);
    expect((await stat(home.endpoints)).mode & 0o777).toBe(0o600);
    const names = endpoints.processes.map(({ name }) => name).sort();
    const replicas = ['cnapi', 'fwapi', 'napi', 'vmapi'].flatMap((s) => [`${s}0`, `${s}1`, `${s}2`]);
    const others = ['adminui0', 'agent0', 'capture0', 'kvstore0', 'kvstore1', 'postgres0'];
    expect(names).toEqual([...others, ...replicas].sort());
    expect(endpoints.kafka).toBeNull();
    const environment = await environmentOf(endpoints.vmapi[1]);
    expect(environment).toMatchObject({
      CONGER_INSTANCE: 'vmapi1',
      CONGER_KVSTORE: endpoints.kvstore.join(),
      CONGER_CNAPI: endpoints.cnapi.join(),
      CONGER_POSTGRES: endpoints.postgres,
      CONGER_KAFKA: '',
      CONGER_SQL: 'true',
    });
    const [line = ''] = (await readFile(home.log('agent0'), 'utf8')).split('\n');
    const [node] = endpoints.nodes;
    expect(JSON.parse(line).environment).toMatchObject({
      CONGER_NODE: node?.uuid,
      CONGER_NODE_KIND: 'simulated',
      CONGER_NODE_HOSTNAME: 'node0',
      CONGER_NODE_HOME: home.node(node?.uuid ?? ''),
    });
  });

  it('goes on after a stop with the same data and the same nodes, and leaves nothing running', async () => {
    const first = await startWhole();
    await query(first.endpoints.postgres, 'create table kept as select 42 as a');
    const { nodes, processes } = first.endpoints;
    await first.stop();
    await expect(stat(first.home.endpoints)).rejects.toThrow('ENOENT');
    for (const { pid } of processes) expect(() => process.kill(pid, 0)).toThrow('ESRCH');
    const second = await startWhole();
    expect(second.endpoints.nodes).toEqual(nodes);
    expect(await query(second.endpoints.postgres, 'select a from kept')).toEqual([{ a: 42 }]);
  });

  it('leaves nothing of itself when it is destroyed, also where its data had to lie elsewhere', async () => {
    const home = join(directory, 'private');
    await mkdir(home, { mode: 0o700 });
    const location = join(home, 'postgres', 'location');
    const datacenter = await startWhole({ home, nodes: 0 });
    const moved = (await readFile(location, 'utf8').catch(() => home)).trim();
    expect((await stat(moved)).isDirectory()).toBe(true);
    await datacenter.destroy();
    running = undefined;
    await expect(stat(moved)).rejects.toThrow('ENOENT');
    await expect(stat(home)).rejects.toThrow('ENOENT');
  });

  it('starts what is killed again, on the same port, also PostgreSQL', async () => {
    const back = new Map<string, () => void>();
    const isBack = (name: string) => new Promise<void>((resolve) => back.set(`${name} is back`, resolve));
    const say = (line: string) => {
      for (const [beginning, resolve] of back) if (line.startsWith(beginning)) resolve();
    };
    const { endpoints, home, kill } = await startWhole({ say });
    const pidOf = async (name: string) =>
      (await readEndpoints(home.endpoints)).processes.find((entry) => entry.name === name)?.pid;
    const before = await pidOf('vmapi1');
    const both = Promise.all([isBack('vmapi1'), isBack('postgres0')]);
    kill('vmapi1', 'SIGKILL');
    kill('postgres0', 'SIGKILL');
    await both;
    const environment = await environmentOf(endpoints.vmapi[1]);
    // Without --sql, kvstore does not answer it.
    expect(environment).toMatchObject({ CONGER_INSTANCE: 'vmapi1', CONGER_SQL: 'false' });
    expect(await query(endpoints.postgres, 'select 1 as a')).toEqual([{ a: 1 }]);
    expect(running?.endpoints.processes.map(({ name }) => name)).toHaveLength(15);
    expect(running?.endpoints.processes.find(({ name }) => name === 'vmapi1')?.pid).not.toBe(before);
  });

  it('is refused on a home that is in use, and on a port that is, with its number', async () => {
    const { home } = await start();
    await expect(startDatacenter({ home: home.path, built, portBase: 'free' })).rejects.toThrow(
      /is in use by/,
    );
    const base = await freeRange(portCount(2));
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(base + 30, '127.0.0.1', resolve));
    const elsewhere = { home: join(directory, 'other'), built, simulated: true, postgres: shared.url };
    await expect(startDatacenter({ ...elsewhere, portBase: base })).rejects.toThrow(`${base + 30} (vmapi0)`);
    other.close();
    // A start that failed has given the home back.
    await expect(
      startDatacenter({ ...elsewhere, portBase: base, postgres: 'postgresql://127.0.0.1:1/x' }),
    ).rejects.toThrow('--postgres cannot be used');
  });

  it('is refused with the reason when a part does not start, and stops what had been started', async () => {
    await writeFile(join(built, entries.fwapi), "throw new Error('no rules today');");
    await expect(start({ say: () => {} })).rejects.toThrow(
      /fwapi\d does not start: exit 1: .*no rules today/,
    );
    await writeFile(join(built, entries.fwapi), fake);
    await start();
  });

  it('can be given up while it starts', async () => {
    await writeFile(join(built, entries.vmapi), 'setInterval(() => {}, 1000);');
    const giveUp = new AbortController();
    const starting = start({
      signal: giveUp.signal,
      say: (line) => {
        if (line.startsWith('kvstore')) giveUp.abort(new Error('enough'));
      },
    });
    await expect(starting).rejects.toThrow('enough');
    await writeFile(join(built, entries.vmapi), fake);
    await start();
  });

  it('waits for the processes of a killed predecessor, and kills those that stay', async () => {
    const home = join(directory, 'home');
    const script = join(directory, 'main.js');
    await writeFile(
      script,
      "process.send('here'); process.on('SIGTERM', () => {}); setInterval(() => {}, 1000);",
    );
    const left = fork(script, ['vmapi0', home]);
    const other = fork(script, ['--home', home]);
    await Promise.all([once(left, 'message'), once(other, 'message')]);
    const ended = new Promise((resolve) => left.once('exit', (_code, signal) => resolve(signal)));
    await start();
    expect(await ended).toBe('SIGKILL');
    // Whoever merely names the home is nothing that is left.
    expect(other.exitCode ?? other.signalCode).toBeNull();
    other.kill('SIGKILL');
  });

  it('is refused when no broker that was given answers', async () => {
    const elsewhere = { kafka: ['127.0.0.1:1'], postgres: shared.url };
    await expect(start(elsewhere)).rejects.toThrow(
      'no Kafka broker answers: connect ECONNREFUSED 127.0.0.1:1',
    );
  });

  it('uses a PostgreSQL that is given, and no compute nodes where none are asked for', async () => {
    const { endpoints, processes } = await start({ nodes: 0 });
    expect(endpoints.postgres).toBe(shared.url);
    expect(endpoints.nodes).toEqual([]);
    expect(processes.filter(({ service }) => service === 'postgres' || service === 'agent')).toEqual([]);
  });
});
