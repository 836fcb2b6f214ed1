import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { LRUCache } from 'lru-cache';
import { z } from 'zod';
import { messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import type { DesiredKind, DesiredOf } from '../contract/desired.ts';
import { SavedFile } from './file.ts';
import { type ReadObject, readObject } from './read.ts';

const fileSchema = z.object({ v: z.literal(1), position: z.string(), objects: z.array(z.unknown()) });

interface Entry {
  readonly read: ReadObject;
  /** The object's JSON, kept so that saving all of them costs no serialization. */
  readonly json: string;
  readonly requestId: string | null;
}

export interface Refused {
  readonly key: string;
  readonly reason: string;
  readonly raw: unknown;
}

/**
 * The node's desired state: what the last snapshot said with every later put and delete applied. It is on the disk
 * before any position is called applied, so an agent that starts without a service knows no less than it had confirmed.
 * Objects that are not valid are kept as they came, and named in `refused`; they never hinder the others.
 */
export class DesiredState {
  readonly #log: Logger;
  readonly #path: string;
  readonly #file: SavedFile;
  #entries = new Map<string, Entry>();
  /** Last position told of each key since the snapshot: a change that does not increase it is a repetition. */
  readonly #positions = new LRUCache<string, string>({ max: 100_000 });
  /** VMs that went since `takeDeleted`, by UUID, with the request that did it. */
  #deleted = new Map<string, string | null>();
  #position = '';
  #known = false;
  #links = 0;
  #firewall = 0;

  constructor(home: string, log: Logger) {
    this.#log = log;
    this.#path = join(home, 'desired.json');
    this.#file = new SavedFile(this.#path, () => {
      const objects = [...this.#entries.values()].map((entry) => entry.json).join(',\n');
      return `{"v":1,"position":${JSON.stringify(this.#position)},"objects":[\n${objects}\n]}\n`;
    });
  }

  /** The highest position received; '' before the first. */
  get position(): string {
    return this.#position;
  }

  /** Whether anything is known at all: while it is not, nothing may be removed. */
  get known(): boolean {
    return this.#known;
  }

  /** Count up with each change to what concerns devices and VMs, and to what concerns the firewall. */
  get versions(): { readonly links: number; readonly firewall: number } {
    return { links: this.#links, firewall: this.#firewall };
  }

  get keys(): string[] {
    return [...this.#entries.keys()].sort();
  }

  /** Every valid object of one kind, by key. */
  of<K extends DesiredKind>(kind: K): Map<string, DesiredOf<K>> {
    const found = new Map<string, DesiredOf<K>>();
    for (const [key, { read }] of this.#entries) {
      if (read.object?.kind === kind) found.set(key, read.object as DesiredOf<K>);
    }
    return found;
  }

  /** Objects that are not valid. */
  get refused(): Refused[] {
    return [...this.#entries.values()].flatMap(({ read }) =>
      read.object === null ? [{ key: read.key, reason: read.reason, raw: read.raw }] : [],
    );
  }

  /** The request that last changed the object, where it is known. */
  requestIdOf(key: string): string | null {
    return this.#entries.get(key)?.requestId ?? null;
  }

  /** The VMs (UUID to request) that are no longer desired since the last call. */
  takeDeleted(): Map<string, string | null> {
    const deleted = this.#deleted;
    this.#deleted = new Map();
    return deleted;
  }

  /** Reads the last state from the disk. A file that cannot be read is put aside, and then nothing is known. */
  async load(): Promise<void> {
    const text = await this.#file.read();
    if (text === null) return;
    try {
      const { position, objects } = fileSchema.parse(JSON.parse(text));
      this.#replace(position, objects);
    } catch (error) {
      this.#log.error({ path: this.#path }, `the saved state cannot be read: ${messageOf(error)}`);
      await rename(this.#path, `${this.#path}.unreadable`);
    }
  }

  snapshot(position: string, objects: readonly unknown[]): void {
    this.#replace(position, objects);
  }

  /** @returns the object's key. */
  put(position: string, raw: unknown, requestId: string | null): string {
    const read = readObject(raw);
    if (this.#repeats(read.key, position)) return read.key;
    this.#set(read, requestId);
    if (read.key.startsWith('vm/')) this.#deleted.delete(read.key.slice(3));
    this.#touch(read.key);
    return read.key;
  }

  delete(position: string, key: string, requestId: string | null): void {
    if (this.#repeats(key, position)) return;
    this.#entries.delete(key);
    if (key.startsWith('vm/')) this.#deleted.set(key.slice(3), requestId);
    this.#touch(key);
  }

  /** Resolves once what is in memory now is on the disk. */
  save(): Promise<void> {
    return this.#file.save();
  }

  #replace(position: string, objects: readonly unknown[]): void {
    const before = this.#entries;
    this.#entries = new Map();
    for (const raw of objects) {
      const read = readObject(raw);
      this.#set(read, before.get(read.key)?.requestId ?? null);
    }
    for (const key of before.keys()) {
      if (key.startsWith('vm/') && !this.#entries.has(key)) this.#deleted.set(key.slice(3), null);
    }
    this.#positions.clear();
    this.#position = position;
    this.#known = true;
    this.#links += 1;
    this.#firewall += 1;
  }

  #set(read: ReadObject, requestId: string | null): void {
    if (read.object === null) {
      this.#log.error({ key: read.key, reason: read.reason }, 'a desired object is not valid and is refused');
    }
    this.#entries.set(read.key, { read, json: JSON.stringify(read.raw) ?? 'null', requestId });
  }

  /** Positions of different keys need not arrive in order (each owner's changes are ordered by themselves); those of one key do. */
  #repeats(key: string, position: string): boolean {
    const last = this.#positions.get(key);
    if (last !== undefined && position <= last) return true;
    this.#positions.set(key, position);
    if (position > this.#position) this.#position = position;
    return false;
  }

  #touch(key: string): void {
    const firewall = key.startsWith('firewall-');
    // A VM's NICs and its bridges' zones are part of the firewall.
    if (!firewall) this.#links += 1;
    this.#firewall += 1;
  }
}
