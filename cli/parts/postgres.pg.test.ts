import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { freePort } from '../../runtime/ports.ts';
import { startPostgres } from '../../test/fixtures/postgres.ts';
import { until } from '../../test/until.ts';
import { startServer } from './postgres.ts';

// A process that is killed must be one of its own, and Node cannot run TypeScript: `npm test` builds it first.
const compiled = join(import.meta.dirname, '../../dist/cli/parts/postgres.js');

let directory: string;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'conger-postgres-test-'));
  // PostgreSQL's own user must reach the data under it.
  await chmod(directory, 0o755);
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

async function query(url: string, sql: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {});
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

describe('the fixture', { timeout: 240_000 }, () => {
  it('decodes logically, and lets nobody but conger in', async () => {
    const { url, stop } = await startPostgres({ max_connections: '50' });
    try {
      const [row] = await query(
        url,
        `select current_setting('wal_level') as wal, current_setting('fsync') as fsync,
           current_setting('max_connections') as connections, rolsuper as super
         from pg_roles where rolname = current_user`,
      );
      expect(row).toEqual({ wal: 'logical', fsync: 'on', connections: '50', super: false });
      await query(url, "select pg_create_logical_replication_slot('probe', 'pgoutput')");
      const asSuperuser = url.replace('conger@', 'postgres@');
      await expect(query(asSuperuser, 'select 1')).rejects.toThrow(/pg_hba.conf/);
    } finally {
      await stop();
    }
    await expect(query(url, 'select 1')).rejects.toThrow(/ECONNREFUSED/);
  });

  it('gives clusters of their own to those who start at the same time', async () => {
    const [one, other] = await Promise.all([startPostgres(), startPostgres()]);
    try {
      await query(one.url, 'create table t (a int)');
      await expect(query(other.url, 'select * from t')).rejects.toThrow(/does not exist/);
    } finally {
      await Promise.all([one.stop(), other.stop()]);
    }
  });
});

// Each is written to the disk for certain, which on a busy one takes its time.
describe('a cluster that stays', { timeout: 240_000 }, () => {
  it('keeps its data in a directory that PostgreSQL’s user cannot enter', async () => {
    const home = join(directory, 'private');
    await mkdir(home);
    await chmod(home, 0o700);
    const options = { directory: join(home, 'postgres'), port: await freePort() };
    const first = await startServer(options);
    await query(first.url, 'create table kept as select 42 as a');
    await first.stop();
    const second = await startServer(options);
    try {
      expect(second.data).toBe(first.data);
      expect(await query(second.url, 'select a from kept')).toEqual([{ a: 42 }]);
    } finally {
      await second.stop();
      if (!second.data.startsWith(home)) await rm(join(second.data, '..'), { recursive: true });
    }
  });

  it('starts after its server was killed, with the lock file still there', async () => {
    const options = { directory: join(directory, 'killed'), port: await freePort() };
    const first = await startServer(options);
    await query(first.url, 'create table kept as select 42 as a');
    first.kill('SIGKILL');
    await first.ended;
    const second = await startServer(options);
    expect(await query(second.url, 'select a from kept')).toEqual([{ a: 42 }]);
    await second.stop();
  });

  it('stops a server of this cluster that is still running before it starts one', async () => {
    const options = { directory: join(directory, 'orphan'), port: await freePort() };
    const lines: string[] = [];
    const first = await startServer(options);
    const second = await startServer({ ...options, say: (line) => lines.push(line) });
    await first.ended;
    const stopping = lines.filter((line) => line.startsWith('stopping'));
    expect(stopping).toEqual([`stopping the PostgreSQL that was left running (pid ${first.pid})`]);
    expect(await query(second.url, 'select 1 as a')).toEqual([{ a: 1 }]);
    await second.stop();
  });

  it('is not held up by a lock file whose number another process has since got', async () => {
    const options = { directory: join(directory, 'reused'), port: await freePort() };
    const first = await startServer(options);
    await first.stop();
    const other = spawn('sleep', ['600']);
    await writeFile(join(first.data, 'postmaster.pid'), `${other.pid}\n${first.data}\n`);
    const second = await startServer(options);
    await second.stop();
    expect(other.exitCode).toBeNull();
    other.kill();
  });

  it.runIf(existsSync(compiled))('ends with its process also while it starts', async () => {
    const options = { directory: join(directory, 'starting'), port: await freePort() };
    const first = await startServer(options);
    await first.stop();
    // A standby that serves nobody never says that it is ready.
    await writeFile(join(first.data, 'standby.signal'), '');
    const never = { ...options, settings: { hot_standby: 'off' }, removeIfAbandoned: true };
    const script = `
      import { startServer } from ${JSON.stringify(pathToFileURL(compiled).href)};
      await startServer({ ...${JSON.stringify(never)}, onLine: (line) => console.log(line) });`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let said = '';
    for await (const chunk of child.stdout) {
      said += chunk;
      if (said.includes('entering standby mode')) break;
    }
    child.kill('SIGKILL');
    await until('the data is gone', async () => !existsSync(first.data), 120_000);
  });

  it('says what PostgreSQL said when it cannot start', async () => {
    const options = { directory: join(directory, 'wrong'), port: await freePort() };
    await expect(startServer({ ...options, settings: { wal_level: 'nonsense' } })).rejects.toThrow(
      /wal_level/,
    );
  });
});
