import { createWriteStream } from 'node:fs';
import pg from 'pg';
import { messageOf } from '../../runtime/errors.ts';
import { primaryNow } from '../../runtime/postgres/primary.ts';
import type { Part } from '../supervisor.ts';
import { asLogLine } from './node-process.ts';
import { startServer } from './postgres.ts';

/** PostgreSQL as a part of the datacenter. */
export function postgresPart(options: {
  readonly directory: string;
  readonly port: number;
  readonly logFile: string;
  readonly say: (line: string) => void;
}): Part {
  const { directory, port, say } = options;
  return {
    name: 'postgres0',
    service: 'postgres',
    stage: 0,
    stopMs: 3_000,
    log: options.logFile,
    launch: async () => {
      const log = createWriteStream(options.logFile, { flags: 'a', mode: 0o640 });
      log.on('error', () => {});
      const onLine = (line: string) => {
        const level = /(ERROR|FATAL|PANIC|WARNING):/.test(line) ? 'warn' : 'info';
        log.write(asLogLine('postgres0', level, line));
      };
      try {
        const server = await startServer({ directory, port, say, onLine });
        const ended = server.ended.then(() => {
          log.end();
          return 'it stopped';
        });
        return {
          pid: server.pid,
          ready: Promise.resolve(),
          ended,
          stop: () => void server.stop(),
          kill: server.kill,
        };
      } catch (error) {
        log.end();
        throw error;
      }
    },
  };
}

const connectMs = 5_000;

/** @throws Error saying what a PostgreSQL that was given lacks */
export async function checkPostgres(url: string): Promise<void> {
  let client: pg.Client | undefined;
  try {
    client = new pg.Client({
      connectionString: await primaryNow(url, connectMs),
      connectionTimeoutMillis: connectMs,
    });
    client.on('error', () => {});
    await client.connect();
    const { rows } = await client.query<{ wal: string; version: number; replication: boolean }>(
      `select current_setting('wal_level') as wal, current_setting('server_version_num')::int as version,
         (select rolreplication or rolsuper from pg_roles where rolname = current_user) as replication`,
    );
    const [found] = rows;
    if (found === undefined) throw new Error('it does not say what it is');
    if (found.version < 170_000) throw new Error('Conger needs PostgreSQL 17 or newer');
    if (found.wal !== 'logical') throw new Error(`its wal_level is ${found.wal}; Conger needs logical`);
    if (!found.replication) throw new Error('its role may not replicate: alter role ... replication');
  } catch (cause) {
    throw new Error(`the PostgreSQL given with --postgres cannot be used: ${messageOf(cause)}`, { cause });
  } finally {
    await client?.end().catch(() => {});
  }
}
