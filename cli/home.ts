import { randomBytes } from 'node:crypto';
import { link, mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { startOf } from './parts/processes.ts';

/** Where things lie in a datacenter's home. */
export class Home {
  readonly path: string;

  constructor(path: string) {
    this.path = resolve(path);
  }

  get endpoints(): string {
    return join(this.path, 'endpoints.json');
  }

  get identities(): string {
    return join(this.path, 'nodes.json');
  }

  get changes(): string {
    return join(this.path, 'changes.json');
  }

  get lock(): string {
    return join(this.path, 'up.pid');
  }

  get postgres(): string {
    return join(this.path, 'postgres');
  }

  get kafka(): string {
    return join(this.path, 'kafka');
  }

  log(name: string): string {
    return join(this.path, 'logs', `${name}.log`);
  }

  node(uuid: string): string {
    return join(this.path, 'nodes', uuid);
  }

  async make(): Promise<void> {
    await mkdir(join(this.path, 'logs'), { recursive: true });
    await mkdir(join(this.path, 'nodes'), { recursive: true });
  }
}

/** Replaces a file as a whole: a reader sees the old text or the new, also after a crash. */
export async function writeWhole(path: string, text: string, mode = 0o644): Promise<void> {
  const draft = `${path}.${process.pid}.${randomBytes(4).toString('hex')}`;
  const file = await open(draft, 'w', mode);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(draft, path);
}

const lockEntry = z.object({ pid: z.number().int(), started: z.string() });

async function holder(path: string): Promise<number | undefined> {
  const text = await readFile(path, 'utf8').catch(() => undefined);
  if (text === undefined) return undefined;
  try {
    const { pid, started } = lockEntry.parse(JSON.parse(text));
    return (await startOf(pid)) === started ? pid : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Takes the home for this process. A lock counts while the process that took it lives, however that one ended.
 * @returns what gives it back
 * @throws Error naming the process that has it
 */
export async function lockHome(home: Home): Promise<() => Promise<void>> {
  const entry = { pid: process.pid, started: (await startOf(process.pid)) ?? '' };
  const draft = `${home.lock}.${process.pid}.${randomBytes(4).toString('hex')}`;
  await writeFile(draft, JSON.stringify(entry));
  try {
    for (let attempt = 0; attempt < 3; attempt++) {
      // A link is made by one process only, and with the text already in it.
      const taken = await link(draft, home.lock).then(
        () => true,
        () => false,
      );
      if (taken) return () => rm(home.lock, { force: true });
      const pid = await holder(home.lock);
      if (pid !== undefined) {
        throw new Error(`${home.path} is in use by process ${pid}: stop that one, or choose another --home`);
      }
      await rm(home.lock, { force: true });
    }
    throw new Error(`${home.lock} cannot be made`);
  } finally {
    await rm(draft, { force: true });
  }
}
