import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { machineNamespace } from '../../agents/driver/names.ts';
import type { Datacenter } from '../../cli/datacenter.ts';
import { messageOf } from '../../runtime/errors.ts';

const run = promisify(execFile);

export interface Machine {
  readonly uuid: string;
  readonly ip: string;
}

/** Whether one echo request from a machine's namespace to another's address is answered within a second. */
export async function ping(prefix: string, from: Machine, to: Machine): Promise<boolean> {
  const namespace = machineNamespace(prefix, from.uuid);
  try {
    await run('ip', ['netns', 'exec', namespace, 'ping', '-c', '1', '-W', '1', to.ip]);
    return true;
  } catch {
    return false;
  }
}

/**
 * Tries until it holds, three times running; what is looked at changes behind the requests that ask for it. An error, as
 * of a process that is being started again, counts as not yet.
 */
export async function settles(
  what: string,
  holds: () => Promise<boolean>,
  deadlineMs = 90_000,
): Promise<void> {
  const end = performance.now() + deadlineMs;
  for (let held = 0; held < 3; ) {
    let why = '';
    const now = await holds().catch((error: unknown) => {
      why = ` (${messageOf(error)})`;
      return false;
    });
    held = now ? held + 1 : 0;
    if (held === 0 && performance.now() > end)
      throw new Error(`${what} did not come about within ${deadlineMs} ms${why}`);
    if (held < 3) await sleep(100);
  }
}

export interface NodeState {
  readonly desired: readonly string[];
  readonly failed: readonly unknown[];
  readonly timings: readonly {
    key: string | null;
    requestId: string | null;
    received: number;
    applied: number;
  }[];
}

/** The agents' own status servers, where they are now: each tells it in its log when it is ready. */
export async function agentUrls(datacenter: Datacenter): Promise<string[]> {
  const agents = datacenter.processes.filter((process) => process.service === 'agent');
  return Promise.all(
    agents.map(async ({ name }) => {
      const log = await readFile(join(datacenter.home.path, 'logs', `${name}.log`), 'utf8');
      const ready = log.split('\n').filter((line) => line.includes('"msg":"ready"'));
      return (JSON.parse(ready.at(-1) ?? '{}') as { urls: string[] }).urls[0]!;
    }),
  );
}

export async function agentGet<T>(url: string, path: 'state' | 'verify'): Promise<T> {
  return (await (await fetch(`${url}/${path}`)).json()) as T;
}
