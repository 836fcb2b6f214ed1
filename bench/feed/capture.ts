import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Machine } from './machine.ts';

/** A capture in a process of its own. */
export interface CaptureProcess {
  readonly pid: number;
  /** Changes that it has appended. */
  appended(): Promise<number>;
  stop(): Promise<void>;
}

const entry = fileURLToPath(new URL('../../changefeed/capture/main.js', import.meta.url));

export async function spawnCapture(env: NodeJS.ProcessEnv): Promise<CaptureProcess> {
  const child = fork(entry, [], { env, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const [message] = await once(child, 'message');
  const url: string = message.ready.urls[0];
  return {
    pid: child.pid ?? Number.NaN,
    appended: async () => {
      const text = await (await fetch(`${url}/metrics`)).text();
      return Number(/^conger_capture_changes_total (\d+)$/m.exec(text)?.[1] ?? 0);
    },
    stop: () => stop(child),
  };
}

/** Resolves once the capture has confirmed everything that is in the WAL now. Costs nobody but PostgreSQL, and little. */
export async function caughtUp({ client }: Machine): Promise<void> {
  const { rows } = await client.query<{ lsn: string }>('SELECT pg_current_wal_insert_lsn()::text AS lsn');
  for (;;) {
    const { rowCount } = await client.query({
      name: 'caught-up',
      text: 'SELECT FROM pg_replication_slots WHERE active AND confirmed_flush_lsn >= $1::pg_lsn',
      values: [rows[0]?.lsn],
    });
    if (rowCount !== 0) return;
    await sleep(20);
  }
}

async function stop(child: ChildProcess): Promise<void> {
  const exit = once(child, 'exit');
  child.kill('SIGTERM');
  await exit;
}
