import type { Logger } from '../../runtime/log.ts';
import { slotWal, WalBudget } from '../../runtime/postgres/slot-wal.ts';
import type { Connections } from './connections.ts';
import { reading } from './database.ts';
import { slotWalHeld } from './store-metrics.ts';

const lookMs = 30_000;

/** The changefeed's replication slot. */
export interface SlotOptions {
  readonly name: string;
  /** Bytes of WAL that it may hold before that is an error; from half of it on it is warned of. */
  readonly budget: number;
}

/**
 * Looks at the WAL that the changefeed's slot holds. Whoever captures does so too, but a slot holds most while nobody
 * captures; servers of the KV tier are there whenever anything is written.
 */
export class SlotWatch {
  readonly #slot: SlotOptions;
  readonly #connections: Connections;
  readonly #log: Logger;
  readonly #budget: WalBudget;
  readonly #timer: NodeJS.Timeout;
  #looking: Promise<void> | undefined;

  /** @param everyMs how often it looks */
  constructor(slot: SlotOptions, connections: Connections, log: Logger, everyMs = lookMs) {
    this.#slot = slot;
    this.#connections = connections;
    this.#log = log;
    this.#budget = new WalBudget(slot.budget, log);
    this.#start();
    this.#timer = setInterval(() => this.#start(), everyMs);
  }

  /** What is wrong with the slot, in words. */
  get warning(): string | undefined {
    return this.#budget.warning;
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#looking;
  }

  /** Looks, unless it does so already. */
  #start(): void {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined;
    });
  }

  async #look(): Promise<void> {
    try {
      const wal = await reading(this.#connections, (client) => slotWal(client, this.#slot.name));
      if (wal === undefined) {
        slotWalHeld.reset();
        return;
      }
      slotWalHeld.set(wal.held);
      this.#budget.judge(wal);
    } catch (error) {
      slotWalHeld.reset();
      this.#log.debug({ err: error }, "what the capture's slot holds is not known");
    }
  }
}
