import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { runFolder } from './netns-setup.ts';

const claimSchema = z.object({ vm: z.string(), node: z.string() });
export type Claim = z.infer<typeof claimSchema>;

/**
 * Who a VM's namespace belongs to. Its name holds only the first digits of the UUID, so the whole is written into a file of
 * the same name before the namespace is made; a namespace that is another's is never touched.
 */
export class Claims {
  readonly #folder: string;

  constructor(prefix: string) {
    this.#folder = join(runFolder, prefix, 'alias');
  }

  /** @throws Error if the namespace is another VM's, or this VM's on another node. */
  async claim(namespace: string, claim: Claim): Promise<void> {
    await mkdir(this.#folder, { recursive: true });
    const path = join(this.#folder, namespace);
    const holder = await this.#read(path);
    if (holder?.vm === claim.vm && holder.node === claim.node) return;
    if (holder !== null && existsSync(`/run/netns/${namespace}`)) {
      throw new Error(`the namespace ${namespace} belongs to VM ${holder.vm} of node ${holder.node}`);
    }
    await writeFile(path, JSON.stringify(claim));
  }

  async release(namespace: string): Promise<void> {
    await unlink(join(this.#folder, namespace)).catch(() => {});
  }

  /** The namespaces of one node's VMs: name to VM. */
  async of(node: string): Promise<Map<string, string>> {
    const names = await readdir(this.#folder).catch(() => []);
    const found = new Map<string, string>();
    for (const name of names.sort()) {
      const claim = await this.#read(join(this.#folder, name));
      if (claim?.node === node) found.set(name, claim.vm);
    }
    return found;
  }

  async #read(path: string): Promise<Claim | null> {
    try {
      return claimSchema.parse(JSON.parse(await readFile(path, 'utf8')));
    } catch {
      return null;
    }
  }
}
