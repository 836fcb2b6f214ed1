import { existsSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './exec.ts';
import { endProcesses } from './netns.ts';
import { runFolder } from './netns-setup.ts';

/**
 * Removes every namespace that agents made under a prefix, with what runs in them: the VMs, the nodes, the underlay
 * switch. For a datacenter that is stopped for good and for tests; an agent that merely ends leaves all of it.
 * @returns the names of what was removed.
 */
export async function cleanup(prefix: string): Promise<string[]> {
  if (!/^[a-z][a-z0-9]{0,5}$/.test(prefix)) throw new Error(`not a prefix: ${prefix}`);
  const all = existsSync('/run/netns') ? await readdir('/run/netns') : [];
  const ours = all.filter(
    (name) =>
      name.startsWith(`${prefix}-vm-`) || name.startsWith(`${prefix}-node-`) || name === `${prefix}-underlay`,
  );
  for (const namespace of ours) {
    await endProcesses(namespace);
    await run('ip', ['netns', 'del', namespace]).catch((error: unknown) => {
      if (existsSync(`/run/netns/${namespace}`)) throw error;
    });
  }
  await rm(join(runFolder, prefix), { recursive: true, force: true });
  return ours;
}
