import { join } from 'node:path';
import { z } from 'zod';
import { messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import { SavedFile } from '../state/file.ts';
import type { Numbers } from './compile.ts';

const book = z.object({ next: z.number().int(), taken: z.record(z.string(), z.number().int()) });
const fileSchema = z.object({ v: z.literal(1), vms: book, zones: book });

/** Gives out 1 to 65535 in turn, so that a number is used again as late as possible. */
class Book {
  readonly taken = new Map<string, number>();
  readonly #used = new Set<number>();
  next = 1;

  constructor(saved?: z.infer<typeof book>) {
    if (saved === undefined) return;
    this.next = saved.next;
    for (const [name, number] of Object.entries(saved.taken)) {
      this.taken.set(name, number);
      this.#used.add(number);
    }
  }

  get(name: string): { number: number; fresh: boolean } {
    const known = this.taken.get(name);
    if (known !== undefined) return { number: known, fresh: false };
    if (this.#used.size >= 65535) throw new Error(`no number is left for ${name}`);
    while (this.#used.has(this.next)) this.next = (this.next % 65535) + 1;
    const number = this.next;
    this.next = (number % 65535) + 1;
    this.taken.set(name, number);
    this.#used.add(number);
    return { number, fresh: true };
  }

  retain(names: ReadonlySet<string>): boolean {
    let changed = false;
    for (const [name, number] of this.taken) {
      if (names.has(name)) continue;
      this.taken.delete(name);
      this.#used.delete(number);
      changed = true;
    }
    return changed;
  }

  toJSON(): z.infer<typeof book> {
    return { next: this.next, taken: Object.fromEntries(this.taken) };
  }
}

/**
 * The numbers of VMs and bridges. Each stays the same as long as its VM or bridge is there, over restarts too: a zone
 * that changed would cut every connection of its network. New numbers are on the disk before they are used.
 */
export class SavedNumbers implements Numbers {
  readonly #file: SavedFile;
  readonly #log: Logger;
  #vms = new Book();
  #zones = new Book();
  #dirty = false;

  constructor(home: string, log: Logger) {
    this.#log = log;
    this.#file = new SavedFile(join(home, 'numbers.json'), () =>
      JSON.stringify({ v: 1, vms: this.#vms, zones: this.#zones }),
    );
  }

  async load(): Promise<void> {
    const text = await this.#file.read();
    if (text === null) return;
    try {
      const saved = fileSchema.parse(JSON.parse(text));
      this.#vms = new Book(saved.vms);
      this.#zones = new Book(saved.zones);
    } catch (error) {
      this.#log.error(`the saved numbers cannot be read, connections may be cut: ${messageOf(error)}`);
    }
  }

  vm(uuid: string): number {
    return this.#give(this.#vms, uuid);
  }

  zone(bridge: string): number {
    return this.#give(this.#zones, bridge);
  }

  /** Gives back the numbers of all but these. */
  retain(vms: ReadonlySet<string>, bridges: ReadonlySet<string>): void {
    const freed = this.#vms.retain(vms);
    this.#dirty = this.#zones.retain(bridges) || freed || this.#dirty;
  }

  /** Whether a number that was given out may not be on the disk yet. */
  get unsaved(): boolean {
    return this.#dirty;
  }

  /** Resolves once every number given out is on the disk. */
  async save(): Promise<void> {
    this.#dirty = false;
    await this.#file.save();
  }

  #give(from: Book, name: string): number {
    const { number, fresh } = from.get(name);
    this.#dirty ||= fresh;
    return number;
  }
}
