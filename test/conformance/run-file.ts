import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { parseTap, type TapResult } from './tap.ts';

export interface FileResult extends TapResult {
  readonly file: string;
  readonly seconds: number;
  /** What it said, on both streams. */
  readonly output: string;
}

/**
 * Runs one file of the suite as a process of its own against `server` (a URL). That it ends otherwise than well, or
 * not within `timeoutMs`, or because `signal` aborts, is a failure as an assertion's is.
 */
export function runFile(
  directory: string,
  file: string,
  server: string,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<FileResult> {
  const began = performance.now();
  return new Promise((settle, reject) => {
    // A process group of its own, so that programs that it started end with it.
    const child = spawn(process.execPath, ['--no-deprecation', join('test', file)], {
      cwd: directory,
      env: { PATH: process.env.PATH, HOME: process.env.HOME, MORAY_TEST_SERVER_REMOTE: server },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        output += text;
      });
    }
    let killed: string | undefined;
    const kill = (why: string) => {
      killed = why;
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    };
    const timer = setTimeout(() => kill(`did not end within ${timeoutMs / 1000} s`), timeoutMs);
    const onAbort = () => kill('was interrupted');
    signal.addEventListener('abort', onAbort);
    child.once('error', reject);
    child.once('close', (code, exitSignal) => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      const { passed, skipped, failures: failed } = parseTap(output);
      const failures = [...failed];
      if (killed !== undefined) failures.push(`(the file ${killed})`);
      else if (code !== 0 && failed.length === 0)
        failures.push(`(the file ended with ${exitSignal ?? code})`);
      settle({
        file,
        // loop.test.js checks by itself and speaks no TAP: that it ends well is its one assertion.
        passed: passed === 0 && failures.length === 0 ? 1 : passed,
        skipped,
        failures,
        seconds: (performance.now() - began) / 1000,
        output,
      });
    });
  });
}
