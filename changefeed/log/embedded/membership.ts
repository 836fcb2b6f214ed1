import { createHash } from 'node:crypto';
import type pg from 'pg';
import { messageOf } from '../../../runtime/errors.ts';
import { failpoint } from '../../../runtime/failpoints.ts';
import type { Logger } from '../../../runtime/log.ts';
import { Backoff, pause } from '../../backoff.ts';
import { type Seat, seatIsFree, takeFreeSeat } from '../../seat.ts';
import type { Doorbell } from './doorbell.ts';
import { buryDead, listMembers, type Member } from './members.ts';
import { beat, MEMBER_NAME, watchOver } from './pulse.ts';
import { GROUP_CHANNEL } from './schema.ts';

export interface MembershipOptions {
  readonly postgres: string;
  readonly pool: pg.Pool;
  readonly doorbell: Doorbell;
  readonly log: Logger;
}

/** Told of every change of the living members; undefined: our own seat is lost, and with it every claim. */
export type OnMembers = (living: readonly Member[] | undefined) => void;

interface Watch {
  readonly seat: string;
  readonly pid: number;
  readonly abort: AbortController;
}

const SEATS = 1_000;
/** How long to wait after a watch failed. */
const WATCH_RETRY_MS = 200;

/**
 * Which members of all groups are alive. A process sits on one seat for all its members, and a member is alive while
 * its seat is held by the backend that it was entered with. Joining and leaving ring the bell. A crash is noticed
 * at once: the seats form a ring, and each process waits for the seat after its own to become free. That a process is
 * stopped, or the connection of a wait gone without a word, nobody can be told: the one who waits looks as well (pulse.ts).
 *
 * Lists are read at different times, and waits break. So whoever finds the entry of a member that is dead removes it, and
 * the bell rings in the same transaction: as long as somebody may list the dead, there is an entry that makes it known.
 */
export class Membership {
  readonly #options: MembershipOptions;
  readonly #closed = new AbortController();
  readonly #entries = new Map<string, { group: string; member: string; onMembers: OnMembers }>();
  readonly #claims = new Set<string>();
  #seat: Seat | undefined;
  #watch: Watch | undefined;
  #loop: Promise<void> | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #refreshing = false;
  #again = false;
  #unlisten: (() => void) | undefined;

  constructor(options: MembershipOptions) {
    this.#options = options;
  }

  /** Enters a member; from now on `onMembers` is told. */
  async join(group: string, member: string, onMembers: OnMembers): Promise<void> {
    const id = `${group}/${member}`;
    if (this.#entries.has(id)) throw new Error(`${member} is a member of ${group} already`);
    this.#entries.set(id, { group, member, onMembers });
    if (this.#loop === undefined) {
      this.#unlisten = this.#options.doorbell.on(GROUP_CHANNEL, () => this.#refresh());
      this.#loop = this.#sit();
    } else if (this.#seat !== undefined) {
      const seat = this.#seat;
      await this.#enter(seat, group, member).catch((error) => this.#giveUp(seat, error));
    }
  }

  async leave(group: string, member: string): Promise<void> {
    this.#entries.delete(`${group}/${member}`);
    if (this.#seat === undefined) return;
    await this.#options.pool
      .query(
        `WITH gone AS (
           DELETE FROM conger_log_member WHERE seat = $1 AND pid = $2 AND grp = $3 AND member = $4 RETURNING seat
         ) SELECT pg_notify('${GROUP_CHANNEL}', '') FROM gone`,
        [this.#seat.name, this.#seat.pid, group, member],
      )
      .catch((error) => this.#options.log.debug({ err: error }, 'leaving a group failed'));
  }

  /** Takes the thing for our own, unless another living process has it. A claim goes when the seat goes. */
  async claim(thing: string): Promise<boolean> {
    const seat = this.#seat;
    // A session that holds an advisory lock would be given it again.
    if (seat === undefined || this.#claims.has(thing)) return false;
    this.#claims.add(thing);
    try {
      const got = await this.#inTurn(() =>
        seat.client.query<{ got: boolean }>(`SELECT pg_try_advisory_lock(${lockKey(thing)}) AS got`),
      );
      if (got.rows[0]?.got === true && this.#seat === seat) return true;
    } catch (error) {
      this.#giveUp(seat, error);
    }
    this.#claims.delete(thing);
    return false;
  }

  async unclaim(thing: string): Promise<void> {
    const seat = this.#seat;
    if (seat === undefined || !this.#claims.delete(thing)) return;
    await this.#inTurn(() => seat.client.query(`SELECT pg_advisory_unlock(${lockKey(thing)})`)).catch(
      (error) => this.#giveUp(seat, error),
    );
  }

  /** The seat's connection does one query at a time. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work);
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  /** Whether the member is one of this process's, on the seat that it has now. */
  isOurs(member: Member): boolean {
    return member.seat === this.#seat?.name && member.pid === this.#seat.pid;
  }

  /** Tells all processes to look again. */
  async ring(): Promise<void> {
    await this.#options.pool
      .query(`NOTIFY ${GROUP_CHANNEL}`)
      .catch((error) => this.#options.log.debug({ err: error }, 'ringing for the groups failed'));
  }

  async close(): Promise<void> {
    this.#closed.abort();
    this.#unlisten?.();
    this.#watch?.abort.abort();
    if (this.#seat !== undefined) {
      await this.#seat.leave();
      await this.ring();
    }
    await this.#loop;
  }

  /** Sits on a seat for as long as this is open; when the seat is lost, on another one. */
  async #sit(): Promise<void> {
    const { log } = this.#options;
    const { signal } = this.#closed;
    const backoff = new Backoff(100, 2_000);
    while (!signal.aborted) {
      let seat: Seat | undefined;
      try {
        seat = await takeFreeSeat(this.#connection(MEMBER_NAME), seatNames());
        if (seat === undefined) throw new Error(`all ${SEATS} seats are taken`);
        this.#live(seat);
        // What an earlier holder left behind.
        await buryDead(this.#options.pool);
        for (const { group, member } of this.#entries.values()) await this.#enter(seat, group, member);
        this.#seat = seat;
        backoff.reset();
        if (signal.aborted) break;
        this.#refresh();
        await seat.lost;
        if (!signal.aborted) log.warn({ seat: seat.name }, 'membership lost; joining again');
      } catch (error) {
        if (!signal.aborted) log.warn({ err: error }, `cannot join: ${messageOf(error)}`);
      } finally {
        this.#seat = undefined;
        this.#claims.clear();
        this.#watch?.abort.abort();
        this.#watch = undefined;
        await seat?.leave();
      }
      if (signal.aborted) break;
      for (const { onMembers } of this.#entries.values()) onMembers(undefined);
      await backoff.pause(signal);
    }
  }

  #live(seat: Seat): void {
    const ask = () => this.#inTurn(() => seat.client.query(''));
    void beat(seat, ask, (error) => this.#giveUp(seat, error));
  }

  async #enter(seat: Seat, group: string, member: string): Promise<void> {
    await failpoint('log.embedded.enter.before');
    await this.#options.pool.query(
      `WITH entered AS (
         INSERT INTO conger_log_member (seat, pid, grp, member) VALUES ($1, $2, $3, $4)
           ON CONFLICT (seat, grp, member) DO UPDATE SET pid = excluded.pid RETURNING seat
       ) SELECT pg_notify('${GROUP_CHANNEL}', '') FROM entered`,
      [seat.name, seat.pid, group, member],
    );
    await failpoint('log.embedded.enter.after');
  }

  /** A seat whose connection does not work is no seat. */
  #giveUp(seat: Seat, error: unknown): void {
    if (this.#closed.signal.aborted) return;
    this.#options.log.warn({ err: error, seat: seat.name }, `giving the seat up: ${messageOf(error)}`);
    void seat.leave();
  }

  /** Lists the living and tells everyone; calls that come meanwhile are gathered into one more round. */
  #refresh(): void {
    this.#again = true;
    if (!this.#refreshing) {
      this.#refreshing = true;
      void this.#refreshUntilCalm();
    }
  }

  async #refreshUntilCalm(): Promise<void> {
    const backoff = new Backoff(100, 2_000);
    const { signal } = this.#closed;
    while (this.#again && !signal.aborted) {
      this.#again = false;
      const seat = this.#seat;
      if (seat === undefined) break;
      try {
        const members = await listMembers(this.#options.pool);
        if (this.#seat !== seat || signal.aborted) continue;
        const living = members.filter((member) => member.living);
        this.#watchNext(seat, living);
        for (const { onMembers } of this.#entries.values()) onMembers(living);
        if (living.length < members.length) await buryDead(this.#options.pool);
      } catch (error) {
        this.#options.log.warn({ err: error }, `cannot list members: ${messageOf(error)}`);
        this.#again = true;
        await backoff.pause(signal);
      }
    }
    this.#refreshing = false;
  }

  /** Waits for the seat that follows our own in the ring, if it is not the one waited for already. */
  #watchNext(seat: Seat, living: readonly Member[]): void {
    const others = [...new Map(living.map((member) => [member.seat, member])).values()]
      .filter((member) => member.seat !== seat.name)
      .sort((a, b) => (a.seat < b.seat ? -1 : 1));
    const next = others.find((member) => member.seat > seat.name) ?? others[0];
    if (next?.seat === this.#watch?.seat && next?.pid === this.#watch?.pid) return;
    this.#watch?.abort.abort();
    this.#watch = undefined;
    if (next === undefined) return;
    const watch = { seat: next.seat, pid: next.pid, abort: new AbortController() };
    this.#watch = watch;
    void this.#await(watch);
  }

  async #await(watch: Watch): Promise<void> {
    const { pool, log } = this.#options;
    const waiting = new AbortController();
    void watchOver(pool, watch.seat, AbortSignal.any([watch.abort.signal, waiting.signal]), log);
    try {
      await seatIsFree(this.#connection('conger log watch'), watch.seat, watch.abort.signal);
      await buryDead(pool);
    } catch (error) {
      log.debug({ err: error }, `a watch ended: ${messageOf(error)}`);
      await pause(WATCH_RETRY_MS, watch.abort.signal);
    } finally {
      waiting.abort();
    }
    // The next watch is of another seat, or of the same one where this watch failed.
    if (this.#watch !== watch) return;
    this.#watch = undefined;
    this.#refresh();
  }

  #connection(name: string) {
    return { postgres: this.#options.postgres, name, log: this.#options.log };
  }
}

function* seatNames(): Generator<string> {
  for (let n = 0; n < SEATS; n++) yield `conger_seat_${n}`;
}

/** A 64-bit key for an advisory lock, as a literal. */
function lockKey(thing: string): string {
  return `'${createHash('sha256').update(thing).digest().readBigInt64BE(0)}'::bigint`;
}
