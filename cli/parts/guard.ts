import { spawn } from 'node:child_process';
import type { Account } from './account.ts';

/**
 * Ends a server when this process is gone, however it went: a shell waits on a pipe that only this process holds, and
 * when the pipe breaks sends `signal`, and wakes a server that was stopped. Servers of our own notice that by their IPC
 * channel; others (PostgreSQL, Kafka) know nothing of it. Returns what dismisses the guard, to be called once the server has ended.
 */
export function guard(
  pid: number,
  signal: 'INT' | 'TERM',
  options: { readonly account?: Account | undefined; readonly thenRemove?: string } = {},
): () => void {
  // The shell has read nothing else than end-of-file when it goes on: nobody ever writes to the pipe.
  const script = `read _; kill -${signal} "$1"; kill -CONT "$1"; test -z "$2" && exit; while kill -0 "$1"; do sleep 0.1; done; rm -rf "$2"`;
  const child = spawn('/bin/sh', ['-c', script, 'sh', String(pid), options.thenRemove ?? ''], {
    ...options.account,
    cwd: '/',
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  child.on('error', () => {});
  child.unref();
  const pipe = child.stdin;
  pipe.on('error', () => {});
  if ('unref' in pipe && typeof pipe.unref === 'function') pipe.unref();
  return () => {
    child.kill('SIGKILL');
  };
}
