import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { until } from '../../test/until.ts';

// A process that is killed must be one of its own, and Node cannot run TypeScript: `npm test` builds it first.
const compiled = join(import.meta.dirname, '../../dist/cli/parts/guard.js');

/** Starts a process that guards another, `sleep`, and says its pid. */
async function startGuarded(directory: string, then: string) {
  const script = `
    import { spawn } from 'node:child_process';
    import { guard } from ${JSON.stringify(pathToFileURL(compiled).href)};
    const server = spawn('sleep', ['60'], { detached: true, stdio: 'ignore' });
    const dismiss = guard(server.pid, 'TERM', { thenRemove: ${JSON.stringify(directory)} });
    console.log(server.pid);
    ${then}`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(child, 'exit');
  const [line] = await once(child.stdout, 'data');
  return { child, ended, server: Number(String(line)) };
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

describe.runIf(existsSync(compiled))('a guard', () => {
  it('ends the server and removes its directory when its process is killed', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'conger-guard-'));
    const { child, server } = await startGuarded(directory, 'setInterval(() => {}, 1000);');
    child.kill('SIGKILL');
    await until('the directory is gone', async () => !existsSync(directory));
    expect(isAlive(server)).toBe(false);
  });

  it('does nothing once it is dismissed, and keeps no process from ending', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'conger-guard-'));
    const { ended, server } = await startGuarded(directory, 'dismiss(); server.unref();');
    await ended;
    expect(isAlive(server)).toBe(true);
    expect(existsSync(directory)).toBe(true);
    process.kill(server, 'SIGKILL');
    await rm(directory, { recursive: true });
  });
});
