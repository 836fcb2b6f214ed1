import { messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import { Backoff, sleep } from '../liveness/backoff.ts';
import type { Instances } from '../liveness/instances.ts';
import type { Ledger, LedgerEntry } from './ledger.ts';

const zoneStates = { running: 'running', stopped: 'installed', destroyed: 'destroyed' } as const;

/** How many reports are under way at once. */
const width = 8;

/**
 * Tells VMAPI the state of each VM until it has accepted it. One VM's reports go one after the other, and always tell the state
 * that is then the latest; a VM whose report is refused does not hold up another's.
 */
export class Reporter {
  readonly #ledger: Ledger;
  readonly #vmapi: Instances;
  readonly #node: string;
  readonly #log: Logger;
  readonly #signal: AbortSignal;
  readonly #busy = new Map<string, Promise<void>>();
  #free = width;
  readonly #waiting: (() => void)[] = [];

  constructor(ledger: Ledger, vmapi: Instances, node: string, log: Logger, signal: AbortSignal) {
    this.#ledger = ledger;
    this.#vmapi = vmapi;
    this.#node = node;
    this.#log = log;
    this.#signal = signal;
  }

  /** Starts telling whatever has not been told. */
  kick(): void {
    for (const [uuid, entry] of this.#ledger.entries) {
      if (entry.told || this.#busy.has(uuid)) continue;
      const telling = this.#tell(uuid).finally(() => this.#busy.delete(uuid));
      this.#busy.set(uuid, telling);
    }
  }

  /** Resolves once nothing is under way. */
  async idle(): Promise<void> {
    while (this.#busy.size > 0) await Promise.all(this.#busy.values());
  }

  async #tell(uuid: string): Promise<void> {
    const backoff = new Backoff();
    while (!this.#signal.aborted) {
      const entry = this.#ledger.get(uuid);
      if (entry === undefined || entry.told || entry.state === 'expected') return;
      await this.#acquire();
      try {
        await this.#send(uuid, entry.state, entry);
        this.#ledger.accepted(uuid, entry);
        await this.#ledger.save();
        continue;
      } catch (error) {
        if (!this.#signal.aborted) {
          this.#log.warn(
            { vm: uuid, state: entry.state },
            `VMAPI has not taken a VM's state: ${messageOf(error)}`,
          );
        }
      } finally {
        this.#release();
      }
      await sleep(backoff.take(), this.#signal);
    }
  }

  async #send(uuid: string, state: keyof typeof zoneStates, entry: LedgerEntry): Promise<void> {
    const body = {
      uuid,
      state,
      zone_state: zoneStates[state],
      server_uuid: this.#node,
      last_modified: entry.lastModified,
    };
    const answer = await this.#vmapi.call('PUT', `/vms/${uuid}`, body, entry.requestId, this.#signal);
    // A VM that VMAPI does not know needs no state there.
    if (answer.status === 404 || (answer.status >= 200 && answer.status < 300)) return;
    throw new Error(`${answer.status}: ${answer.text.slice(0, 500)}`);
  }

  async #acquire(): Promise<void> {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  #release(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free += 1;
    else next();
  }
}
