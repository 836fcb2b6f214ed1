import { readFile, rm } from 'node:fs/promises';
import { z } from 'zod';
import { writeWhole } from './home.ts';

/** endpoints.json: where a running datacenter's parts are. */
export const endpointsSchema = z.object({
  capture: z.array(z.string()),
  kvstore: z.array(z.string()),
  cnapi: z.array(z.string()),
  vmapi: z.array(z.string()),
  napi: z.array(z.string()),
  fwapi: z.array(z.string()),
  adminui: z.array(z.string()),
  kafka: z.array(z.string()).nullable(),
  postgres: z.string(),
  nodes: z.array(z.object({ uuid: z.string(), kind: z.enum(['netns', 'simulated']) })),
  processes: z.array(z.object({ name: z.string(), pid: z.number().int(), service: z.string() })),
});

export type Endpoints = z.output<typeof endpointsSchema>;

/** @throws Error when there is none, or it is not one */
export async function readEndpoints(path: string): Promise<Endpoints> {
  return endpointsSchema.parse(JSON.parse(await readFile(path, 'utf8')));
}

/** Keeps the file up to date: writes come one after the other, and the last one asked for wins. */
export class EndpointsFile {
  readonly #path: string;
  #writing: Promise<void> | undefined;
  #next: (() => Endpoints) | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  /** `current` is asked when the write begins. The promise resolves when what was current then is on disk. */
  update(current: () => Endpoints): Promise<void> {
    this.#next = current;
    this.#writing ??= this.#write().finally(() => {
      this.#writing = undefined;
    });
    return this.#writing;
  }

  /** Removes the file, after what is being written. */
  async remove(): Promise<void> {
    this.#next = undefined;
    await this.#writing?.catch(() => {});
    await rm(this.#path, { force: true });
  }

  async #write(): Promise<void> {
    while (this.#next !== undefined) {
      const current = this.#next;
      this.#next = undefined;
      // PostgreSQL's URL may hold a password.
      await writeWhole(this.#path, `${JSON.stringify(current(), undefined, 2)}\n`, 0o600);
    }
  }
}
