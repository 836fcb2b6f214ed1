import { messageOf } from '../../../runtime/errors.ts';
import { failpoint, failpointNow } from '../../../runtime/failpoints.ts';
import { Backoff } from '../../backoff.ts';
import type { Cursor, GroupHandler } from '../../types.ts';
import type { KafkaOptions } from './client.ts';
import { Delivery } from './delivery.ts';
import type { Fetcher } from './fetcher.ts';
import type { Shares } from './membership.ts';

/**
 * One partition of a group, as this member has it. Brings what the handler was told in line with what the group last
 * said, one step after the other: assigned, batches, revoked never overlap, and a partition that was somebody else's in
 * between is revoked and assigned anew.
 */
export class Ownership {
  readonly #partition: number;
  readonly #handler: GroupHandler;
  readonly #fetcher: Pick<Fetcher, 'add' | 'remove' | 'wake'>;
  readonly #options: KafkaOptions;
  /** What it should be, and what it is. */
  #wanted: symbol | undefined;
  #held: symbol | undefined;
  #delivery: Delivery | undefined;
  #abort = new AbortController();
  #settling: Promise<void> | undefined;

  constructor(
    partition: number,
    handler: GroupHandler,
    fetcher: Pick<Fetcher, 'add' | 'remove' | 'wake'>,
    options: KafkaOptions,
  ) {
    this.#partition = partition;
    this.#handler = handler;
    this.#fetcher = fetcher;
    this.#options = options;
  }

  /** The group's word on this partition. */
  want(shares: Shares): void {
    const wanted = shares.get(this.#partition);
    if (wanted === this.#wanted) return;
    this.#wanted = wanted;
    this.#abort.abort();
    this.#abort = new AbortController();
    this.#settling ??= this.#settle();
  }

  /** Resolves when the handler knows what the group said last. */
  async settled(): Promise<void> {
    await this.#settling;
  }

  async #settle(): Promise<void> {
    while (this.#held !== this.#wanted) {
      if (this.#held !== undefined) await this.#revoke();
      else await this.#assign();
    }
    this.#settling = undefined;
  }

  async #assign(): Promise<void> {
    const wanted = this.#wanted;
    const { signal } = this.#abort;
    const backoff = new Backoff(100, 5_000);
    while (!signal.aborted) {
      try {
        failpointNow('group.assign.before');
        const cursor = await this.#handler.assigned(this.#partition);
        await failpoint('group.assign.after');
        this.#held = wanted;
        if (!signal.aborted) this.#begin(cursor);
        return;
      } catch (error) {
        this.#options.log.error(
          { partition: this.#partition, err: error },
          `a partition could not be taken over, trying again: ${messageOf(error)}`,
        );
        await backoff.pause(signal);
      }
    }
  }

  #begin(cursor: Cursor | 'start'): void {
    const { position, offset } = cursor === 'start' ? { position: '', offset: '' } : cursor;
    this.#delivery = new Delivery({
      partition: this.#partition,
      // A cursor of another log has no offset of this one: its position alone tells what was read.
      offset: /^\d+$/.test(offset) ? BigInt(offset) : 0n,
      position,
      log: this.#options.log,
      onBatch: (batch) => this.#handler.batch(batch),
      onGap: () => this.#handler.gap(this.#partition),
      onRoom: () => this.#fetcher.wake(),
    });
    this.#fetcher.add(this.#delivery);
  }

  async #revoke(): Promise<void> {
    const delivery = this.#delivery;
    this.#delivery = undefined;
    if (delivery !== undefined) {
      this.#fetcher.remove(delivery);
      await delivery.stop();
    }
    try {
      failpointNow('group.revoke.before');
      await this.#handler.revoked(this.#partition);
      await failpoint('group.revoke.after');
    } catch (error) {
      this.#options.log.error(
        { partition: this.#partition, err: error },
        `a partition could not be given up in order: ${messageOf(error)}`,
      );
    }
    this.#held = undefined;
  }
}
