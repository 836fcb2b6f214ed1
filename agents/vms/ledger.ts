import { join } from 'node:path';
import { z } from 'zod';
import { messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import { SavedFile } from '../state/file.ts';

const entrySchema = z.object({
  /** `expected`: spoken of and not made yet, which is nobody's news. */
  state: z.enum(['running', 'stopped', 'destroyed', 'expected']),
  /** The count of reboots that has been carried out. */
  reboots: z.number().int(),
  /** When the state was reached, ISO 8601. */
  lastModified: z.string(),
  requestId: z.string().nullable(),
  /** Whether VMAPI has accepted this state. */
  told: z.boolean(),
});
const fileSchema = z.object({ v: z.literal(1), vms: z.record(z.string(), entrySchema) });

export type LedgerEntry = z.infer<typeof entrySchema>;

/**
 * Every VM of this node and the state that its kernel last showed, until VMAPI has accepted that it is destroyed, and for as
 * long as VMAPI asks for that. It is on the disk, so that a state that was reached before a crash is still told after it.
 */
export class Ledger {
  readonly #file: SavedFile;
  readonly #log: Logger;
  readonly #vms = new Map<string, LedgerEntry>();
  #asked: ReadonlySet<string> = new Set();

  constructor(home: string, log: Logger) {
    this.#log = log;
    this.#file = new SavedFile(join(home, 'vms.json'), () =>
      JSON.stringify({ v: 1, vms: Object.fromEntries(this.#vms) }),
    );
  }

  /** Reads the ledger; every state in it is to be told again, since VMAPI may have been restored to an older one. */
  async load(): Promise<void> {
    const text = await this.#file.read();
    if (text === null) return;
    try {
      const { vms } = fileSchema.parse(JSON.parse(text));
      for (const [uuid, entry] of Object.entries(vms)) {
        this.#vms.set(uuid, { ...entry, told: entry.state === 'expected' });
      }
    } catch (error) {
      this.#log.error(`the saved VM states cannot be read and are built anew: ${messageOf(error)}`);
    }
  }

  get(uuid: string): LedgerEntry | undefined {
    return this.#vms.get(uuid);
  }

  get entries(): ReadonlyMap<string, LedgerEntry> {
    return this.#vms;
  }

  /** Writes down that a VM has been spoken of, so that its end is told even if it was never made. */
  expect(uuid: string, requestId: string | null): void {
    const known = this.#vms.get(uuid);
    if (known === undefined) {
      const lastModified = new Date().toISOString();
      this.#vms.set(uuid, { state: 'expected', reboots: 0, lastModified, requestId, told: true });
    } else {
      this.#vms.set(uuid, { ...known, requestId });
    }
  }

  /** Writes down the state that a VM is in. Answers whether that is news. */
  note(uuid: string, state: LedgerEntry['state'], reboots: number, requestId: string | null): boolean {
    const known = this.#vms.get(uuid);
    if (known?.state === state && known.reboots === reboots) return false;
    // Never the same moment twice, nor an earlier one: it tells one state from the next.
    const since = known === undefined ? 0 : Date.parse(known.lastModified) + 1;
    const lastModified = new Date(Math.max(Date.now(), since)).toISOString();
    this.#vms.set(uuid, { state, reboots, lastModified, requestId, told: false });
    return true;
  }

  /**
   * The VMs whose end is asked for now: that such a one is destroyed stays written down, told or not, so that it is not
   * news again. Answers whether any is no longer asked for and so forgotten.
   */
  ask(uuids: ReadonlySet<string>): boolean {
    this.#asked = uuids;
    const done = [...this.#vms].filter(
      ([uuid, { state, told }]) => state === 'destroyed' && told && !uuids.has(uuid),
    );
    for (const [uuid] of done) this.#vms.delete(uuid);
    return done.length > 0;
  }

  /** Writes down that VMAPI has accepted `entry`, unless the VM has moved on since. */
  accepted(uuid: string, entry: LedgerEntry): void {
    if (this.#vms.get(uuid) !== entry) return;
    if (entry.state === 'destroyed' && !this.#asked.has(uuid)) this.#vms.delete(uuid);
    else this.#vms.set(uuid, { ...entry, told: true });
  }

  save(): Promise<void> {
    return this.#file.save();
  }
}
