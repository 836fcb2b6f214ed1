import { setTimeout as sleep } from 'node:timers/promises';
import type { Datacenter } from '../../cli/datacenter.ts';
import type { Random } from '../random.ts';

export interface Fault {
  /** The process that was killed with -9, `vmapi1`. */
  readonly name: string;
  /** Milliseconds after the story's beginning. */
  readonly at: number;
}

/**
 * Kills with -9, at random moments while the story runs: one instance of every service, the capture, one kvstore and
 * one agent, in random order. The supervisor starts each again.
 */
export async function injectFaults(
  datacenter: Datacenter,
  random: Random,
  signal: AbortSignal,
): Promise<Fault[]> {
  const start = Date.now();
  const services = [...new Set(datacenter.processes.map((process) => process.service))];
  const targets = services.filter((service) => service !== 'postgres' && service !== 'kafka');
  const faults: Fault[] = [];
  for (const service of random.shuffled(targets)) {
    await sleep(100 + random.below(2_000));
    if (signal.aborted) break;
    const processes = datacenter.processes.filter((process) => process.service === service);
    const { name } = random.pick(processes);
    datacenter.kill(name, 'SIGKILL');
    faults.push({ name, at: Date.now() - start });
  }
  return faults;
}
