import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Order } from './clients.ts';
import type { Usage } from './instance.ts';

/** An instance of a service, in a process of its own. */
export interface Instance {
  readonly url: string;
  usage(): Promise<Usage>;
  signal(signal: NodeJS.Signals): void;
  stop(): Promise<void>;
}

/** Readers, all in one process: as cheap as they can be, so that it is the service that is measured. */
export interface Clients {
  order(order: Order): Promise<number[]>;
  stop(): Promise<void>;
}

/** An instance whose ring holds `maxChanges`. */
export async function startInstance(env: NodeJS.ProcessEnv, maxChanges = 16_384): Promise<Instance> {
  const argv = (process.env.CONGER_BENCH_INSTANCE_ARGV ?? '').split(' ').filter((word) => word !== '');
  const child = fork(pathOf('instance.js'), [String(maxChanges)], {
    env,
    execArgv: ['--expose-gc', ...argv],
  });
  const [{ url }] = (await once(child, 'message')) as [{ url: string }];
  return {
    url,
    usage: async () => {
      child.send('usage');
      const [usage] = (await once(child, 'message')) as [Usage];
      return usage;
    },
    signal: (signal) => child.kill(signal),
    stop: () => stop(child),
  };
}

export function startClients(): Clients {
  const child = fork(pathOf('clients.js'));
  return {
    order: async (order) => {
      child.send(order);
      const [{ done }] = (await once(child, 'message')) as [{ done?: number[] }];
      return done ?? [];
    },
    stop: () => stop(child),
  };
}

function pathOf(file: string): string {
  return fileURLToPath(new URL(file, import.meta.url));
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.disconnect();
  await exit;
}
