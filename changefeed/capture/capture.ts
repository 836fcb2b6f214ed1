import type pg from 'pg';
import { messageOf } from '../../runtime/errors.ts';
import { failpoint } from '../../runtime/failpoints.ts';
import type { Logger } from '../../runtime/log.ts';
import { type SlotWal, slotWal, WalBudget } from '../../runtime/postgres/slot-wal.ts';
import { answered } from '../answered.ts';
import { Backoff } from '../backoff.ts';
import { type Lease, newPatience, takeLease } from '../lease.ts';
import { connect, disconnect, ended } from '../postgres.ts';
import type { LogRecord, LogWriter, Position } from '../types.ts';
import { Assembler } from './assembler.ts';
import { activeGauge, bytesAppended, changesAppended, epochGauge, lagSeconds } from './metrics.ts';
import { openings } from './opening.ts';
import { Parts, StreamAnewError } from './parts.ts';
import { decodePgOutput } from './pgoutput.ts';
import { Pipeline } from './pipeline.ts';
import { ReplicationStream } from './replication.ts';
import { checkEpoch, ensureSlot, epochAfter, freeSlot } from './slot.ts';
import { type SpoolOptions, SpoolRoom } from './spool.ts';
import { histories } from './timeline.ts';
import { Visibility } from './visibility.ts';
import { watch } from './watch.ts';

export interface CaptureOptions {
  readonly postgres: string;
  readonly slot: string;
  readonly partitions: number;
  readonly openWriter: () => Promise<LogWriter>;
  /** Bytes of WAL that PostgreSQL may keep for the slot before it is an error. Default: any number. */
  readonly walBudget?: number;
  /** Where transactions that are too large for memory wait. */
  readonly spool?: SpoolOptions;
  readonly log: Logger;
}

export interface CaptureStatus {
  /** false: another process captures, and this one waits to take over. */
  readonly active: boolean;
  readonly epoch: number;
  /** Of the last change that this process appended. */
  readonly position: Position;
}

/**
 * Brings every committed change from PostgreSQL's WAL into the log, once and in commit order. Of all processes that
 * run one, the one that holds the slot's seat captures and the others wait for the seat. When anything breaks (the
 * stream, the seat, an append) everything is given up and begun anew from the seat: what is in the log is found out
 * again from its tails, never remembered.
 */
export class Capture {
  readonly #options: CaptureOptions;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  readonly #budget: WalBudget;
  #loop: Promise<void> | undefined;
  #active = false;
  #epoch = 0;
  #position: Position = '';
  #control: pg.Client | undefined;
  readonly #parts = new Parts();
  readonly #patience = newPatience();

  constructor(options: CaptureOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#budget = new WalBudget(options.walBudget ?? Number.POSITIVE_INFINITY, options.log);
  }

  get status(): CaptureStatus {
    return { active: this.#active, epoch: this.#epoch, position: this.#position };
  }

  /**
   * Begins, and answers once the replication slot is there: from then on no change is missed, whether this process
   * captures or another one. Writers of changes should start after that.
   */
  start(): Promise<void> {
    return new Promise((resolve) => {
      this.#loop ??= this.#run(resolve);
    });
  }

  /** What PostgreSQL keeps for the slot; undefined while this process stands by. */
  async wal(): Promise<SlotWal | undefined> {
    return this.#control === undefined ? undefined : await slotWal(this.#control, this.#options.slot);
  }

  /** Finishes the append in flight, confirms it and gives the seat up. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#loop;
  }

  async #run(slotIsThere: () => void): Promise<void> {
    const { signal } = this.#stop;
    const backoff = new Backoff(100, 2_000);
    while (!signal.aborted) {
      try {
        await failpoint('capture.slot.before');
        await this.#once((client) => this.#ensureSlot(client));
        await failpoint('capture.slot.after');
        slotIsThere();
        await failpoint('capture.seat.before');
        // Made before, so that taking over does not wait for its modules.
        const writer = await this.#options.openWriter();
        const seat = await takeLease(
          this.#connection('seat'),
          `conger_seat_capture_${this.#options.slot}`,
          signal,
          this.#patience,
        );
        try {
          await this.#hold(seat, writer, signal, () => backoff.reset());
        } finally {
          await seat.leave();
        }
      } catch (error) {
        if (signal.aborted) break;
        this.#log.warn({ err: error }, `capture interrupted: ${messageOf(error)}`);
        await backoff.pause(signal);
      }
    }
    slotIsThere();
  }

  /** Captures for as long as the seat is held, also where the stream has to begin anew; throws in the end. */
  async #hold(seat: Lease, first: LogWriter, signal: AbortSignal, established: () => void): Promise<never> {
    for (let log = first; ; log = await this.#options.openWriter()) {
      try {
        return await this.#reign(seat, log, signal, established);
      } catch (error) {
        if (!(error instanceof StreamAnewError) || signal.aborted) throw error;
        this.#parts.forbid(error.xids32);
        this.#log[this.#parts.allowed ? 'info' : 'warn'](`the stream begins anew: ${error.message}`);
        await seat.held();
      }
    }
  }

  /** Captures for as long as everything holds, and until `signal`; throws in the end, whatever that is. */
  async #reign(seat: Lease, log: LogWriter, signal: AbortSignal, established: () => void): Promise<never> {
    const { slot, partitions } = this.#options;
    await failpoint('capture.seat.after');
    const control = await connect(this.#connection('control'));
    let stream: ReplicationStream | undefined;
    let work: Promise<void> | undefined;
    let pipeline: Pipeline | undefined;
    let unwatch = () => {};
    const room = new SpoolRoom(this.#options.spool);
    let seated = true;
    let giveUp = (_error: Error) => {};
    const anew = new Promise<never>((_, reject) => {
      giveUp = reject;
    });
    try {
      const controlLost = ended(control);
      this.#control = control;
      const slotEpoch = await this.#ensureSlot(control);
      await failpoint('capture.open.before');
      const tails = await log.open();
      await failpoint('capture.open.after');
      const { postgres, name } = this.#connection('history');
      const historyOf = histories(postgres, name, this.#log);
      const doubt = this.#connection('doubt');
      const epoch = epochAfter(control, slot, slotEpoch, tails, historyOf, this.#log);
      this.#epoch = await answered(control, doubt, epoch);
      await failpoint('capture.free.before');
      await answered(control, doubt, freeSlot(control, slot, this.#log));
      await failpoint('capture.free.after');
      const assembler = new Assembler(this.#epoch, partitions, room, tails);
      const visibility = new Visibility(control);
      const flow = new Pipeline({
        tails,
        mayAppend: () => seat.held(),
        append: (records) => log.append(records),
        visible: (xids, until) => visibility.wait(xids, until),
        confirm: (lsn, urgent) => stream?.confirm(lsn, urgent),
        pause: () => stream?.pause(),
        resume: () => stream?.resume(),
        appended: (records) => this.#count(records),
      });
      pipeline = flow;
      await failpoint('capture.stream.before');
      const reading = await ReplicationStream.open({
        postgres: this.#options.postgres,
        slot,
        publication: slot,
        streaming: this.#parts.allowed,
        log: this.#log,
        handler: {
          data: (payload) => {
            const message = decodePgOutput(payload, assembler.inStream);
            if (message === undefined) return;
            try {
              const transaction = assembler.push(message);
              if (transaction !== undefined) flow.push(transaction);
            } catch (error) {
              if (error instanceof StreamAnewError) giveUp(error);
              throw error;
            }
          },
          keepalive: (walEnd) => {
            if (!assembler.midway) flow.reached(walEnd);
          },
        },
      });
      stream = reading;
      const over = Promise.race([
        anew,
        reading.over,
        seat.lost.then(() => 'the seat was lost'),
        controlLost.then(() => 'the control connection was lost'),
        aborted(signal).then(() => 'it was stopped'),
      ]).then((why): never => {
        throw new Error(why);
      });
      await Promise.race([reading.begun, over]);
      unwatch = watch({
        control,
        slot,
        stream: reading,
        appended: () => this.#position,
        budget: this.#budget,
        parts: this.#parts,
        giveUp,
        log: this.#log,
      });
      await failpoint('capture.stream.after');
      await Promise.race([checkEpoch(control, slot, this.#epoch), over]);
      const opening = openings(this.#epoch, tails);
      if (opening.length > 0) await Promise.race([log.append(opening), over]);
      work = flow.run();
      this.#setActive(true);
      this.#log.info({ slot, epoch: this.#epoch }, 'capturing');
      established();
      await Promise.race([work, over]);
      throw new Error('the pipeline ended');
    } catch (error) {
      seated = error instanceof StreamAnewError;
      throw error;
    } finally {
      unwatch();
      await failpoint('capture.leave.before')?.catch(() => undefined);
      this.#control = undefined;
      this.#setActive(false);
      stream?.stop();
      pipeline?.stop();
      const close = () =>
        log.close().catch((error) => this.#log.debug({ err: error }, 'closing the log failed'));
      if (!signal.aborted) {
        if (!seated) await seat.leave();
        // What is in flight may take for ever. Nobody looks any more, so PostgreSQL is not to wait for a stream at rest.
        // Without a seat an append is the next owner's to fence, and nothing to wait for.
        await Promise.all([stream?.close(), disconnect(control), ...(seated ? [] : [close()])]);
      }
      await work?.catch(() => undefined);
      room.close();
      await stream?.close();
      await close();
      await disconnect(control);
    }
  }

  #count(records: readonly LogRecord[]): void {
    const last = records.at(-1);
    if (last === undefined) return;
    this.#position = last.position;
    changesAppended.inc(records.length);
    bytesAppended.inc(records.reduce((sum, record) => sum + record.body.length, 0));
    lagSeconds.set(Math.max(0, Date.now() - last.time) / 1000);
  }

  #setActive(active: boolean): void {
    this.#active = active;
    activeGauge.set(active ? 1 : 0);
    epochGauge.set(this.#epoch);
  }

  #connection(what: string) {
    return {
      postgres: this.#options.postgres,
      name: `conger capture ${this.#options.slot} ${what}`,
      log: this.#log,
    };
  }

  /** Waits for transactions that are in progress where the slot has to be made, but not beyond `stop`. */
  async #ensureSlot(client: pg.Client): Promise<number> {
    const hangUp = () => void disconnect(client);
    this.#stop.signal.addEventListener('abort', hangUp, { once: true });
    try {
      const epoch = ensureSlot(client, this.#options.slot, this.#log);
      return await answered(client, this.#connection('doubt'), epoch);
    } finally {
      this.#stop.signal.removeEventListener('abort', hangUp);
    }
  }

  async #once<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
    const client = await connect(this.#connection('control'));
    try {
      return await work(client);
    } finally {
      await disconnect(client);
    }
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
