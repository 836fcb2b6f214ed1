import { messageOf } from '../../../runtime/errors.ts';
import { failpoint } from '../../../runtime/failpoints.ts';
import type { Logger } from '../../../runtime/log.ts';
import { Backoff } from '../../backoff.ts';
import type { GroupHandler } from '../../types.ts';
import type { Member } from './members.ts';
import type { Membership } from './membership.ts';
import type { Pump } from './pump.ts';

export interface GroupMemberOptions {
  readonly group: string;
  readonly member: string;
  readonly partitions: number;
  readonly handler: GroupHandler;
  readonly membership: Membership;
  readonly pump: Pump;
  readonly log: Logger;
}

/** The partitions of the n-th of `members` members: every member gets as many as any other, give or take one. */
export function share(partitions: number, members: number, n: number): number[] {
  return Array.from({ length: partitions }, (_, p) => p).filter((p) => p % members === n);
}

/**
 * One member of a group. What it should own follows from the list of the living, which is the same for all; what it
 * does own it has claimed, so that a partition is given up (and the batch in progress over) before another takes it.
 */
export class GroupMember {
  readonly #options: GroupMemberOptions;
  readonly #owned = new Set<number>();
  readonly #closed = new AbortController();
  #desired: ReadonlySet<number> = new Set();
  #claimsLost = false;
  #settled: Promise<void> = Promise.resolve();
  #settling = false;
  #again = false;
  #wake: AbortController = new AbortController();

  constructor(options: GroupMemberOptions) {
    this.#options = options;
  }

  onMembers(living: readonly Member[] | undefined): void {
    const { group, member, partitions, handler } = this.#options;
    if (living === undefined) {
      this.#claimsLost = true;
      this.#want([]);
      return;
    }
    const peers = living.filter((one) => one.group === group).sort(byName);
    const mine = peers.findIndex((one) => one.member === member && this.#options.membership.isOurs(one));
    this.#want(mine < 0 ? [] : share(partitions, peers.length, mine));
    if (mine >= 0 && !this.#closed.signal.aborted) handler.regrouped?.();
  }

  /** Gives every partition up. */
  async stop(): Promise<void> {
    this.#closed.abort();
    this.#want([]);
    await this.#settled;
  }

  #want(partitions: readonly number[]): void {
    this.#desired = this.#closed.signal.aborted ? new Set() : new Set(partitions);
    this.#again = true;
    this.#wake.abort();
    if (this.#settling) return;
    this.#settling = true;
    this.#settled = this.#settle();
  }

  /** Brings what is owned to what is desired, until it is. */
  async #settle(): Promise<void> {
    const backoff = new Backoff(50, 1_000);
    while (this.#again) {
      this.#again = false;
      this.#wake = new AbortController();
      await this.#revoke();
      const missing = [...this.#desired].filter((partition) => !this.#owned.has(partition));
      const got = await Promise.all(missing.map((partition) => this.#take(partition)));
      if (got.every(Boolean)) continue;
      // The previous owner has yet to let go, or the handler could not say where to go on from.
      this.#again = true;
      await backoff.pause(this.#wake.signal);
    }
    this.#settling = false;
  }

  async #revoke(): Promise<void> {
    const { handler, pump, membership, log } = this.#options;
    const claimsLost = this.#claimsLost;
    this.#claimsLost = false;
    const leaving = [...this.#owned].filter((partition) => claimsLost || !this.#desired.has(partition));
    await Promise.all(
      leaving.map(async (partition) => {
        await failpoint('group.revoke.before')?.catch(() => undefined);
        await pump.remove(partition);
        this.#owned.delete(partition);
        try {
          await handler.revoked(partition);
        } catch (error) {
          log.warn({ err: error, partition }, `giving up a partition failed: ${messageOf(error)}`);
        }
        await failpoint('group.revoke.after')?.catch(() => undefined);
        await membership.unclaim(this.#thing(partition));
      }),
    );
    if (leaving.length > 0) await membership.ring();
  }

  async #take(partition: number): Promise<boolean> {
    const { handler, pump, membership, log } = this.#options;
    const thing = this.#thing(partition);
    if (!(await membership.claim(thing))) return false;
    try {
      await failpoint('group.assign.before');
      const cursor = await handler.assigned(partition);
      await failpoint('group.assign.after');
      this.#owned.add(partition);
      pump.add(partition, cursor === 'start' ? undefined : cursor.position);
      return true;
    } catch (error) {
      log.warn(
        { err: error, partition },
        `taking a partition failed, and is tried again: ${messageOf(error)}`,
      );
      await membership.unclaim(thing);
      return false;
    }
  }

  #thing(partition: number): string {
    return `conger/group/${this.#options.group}/${partition}`;
  }
}

function byName(a: Member, b: Member): number {
  const [x, y] = [`${a.member}\0${a.seat}`, `${b.member}\0${b.seat}`];
  return x < y ? -1 : x > y ? 1 : 0;
}
