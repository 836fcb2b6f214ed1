import { messageOf } from '../runtime/errors.ts';
import { destroy } from '../runtime/postgres/host-watch.ts';
import { pause } from './backoff.ts';
import { Patience } from './patience.ts';
import { ANSWER_MS, type ConnectOptions, connect, disconnect } from './postgres.ts';
import { type Seat, takeSeat } from './seat.ts';
import { isSilent } from './silence.ts';

/** How often who holds a seat says that it lives, and how often who waits for the seat looks. */
const BEAT_MS = 300;
/** Silence after which the holder is taken for stopped, and the most that this becomes. */
const SILENT_MS = 1_250;
const MOST_SILENT_MS = 20_000;
/** Beats that may be due while one is not answered (15 s): then the connection is taken for broken, and the seat for lost. */
const UNANSWERED_BEATS = 50;

/**
 * Takes the seat, also from a process that is stopped, or hangs, and so keeps its connections: its backend is ended
 * once it has said nothing for 1.25 s. Both times are PostgreSQL's, so no two clocks are compared. Being wrong about
 * it costs a takeover and no more: what a former holder still does is fenced by the log.
 *
 * What the holder says is an empty query, which has no snapshot and no transaction id. Nobody is told when nothing is
 * said, so the one who waits has to look: it alone does, with one query each time.
 * @param patience kept by who takes the lease again and again
 */
export async function takeLease(
  options: ConnectOptions,
  name: string,
  signal: AbortSignal,
  patience = newPatience(),
): Promise<Lease> {
  const seated = new AbortController();
  const watching = watch(options, name, patience, AbortSignal.any([signal, seated.signal]));
  try {
    const seat = await takeSeat(options, name, signal);
    return new Beating(seat);
  } finally {
    seated.abort();
    await watching;
  }
}

export function newPatience(): Patience {
  return new Patience(SILENT_MS, MOST_SILENT_MS);
}

/** A seat whose holder is heard of. */
export interface Lease extends Seat {
  /**
   * To be awaited before what only the holder may do. Resolves at once where PostgreSQL has answered of late; else asks,
   * so that a process that was stopped learns what became of its seat before it goes on. No fence: the process may be
   * stopped right behind it.
   * @throws Error where the seat is lost
   */
  held(): Promise<void>;
}

class Beating implements Lease {
  readonly name: string;
  readonly client: Seat['client'];
  readonly pid: number;
  readonly lost: Promise<void>;
  readonly #seat: Seat;
  /** Of this process's clock that goes on while it is stopped: when the last question was sent that was answered. */
  #answered = performance.now();
  #asking: Promise<void> | undefined;

  constructor(seat: Seat) {
    this.#seat = seat;
    this.name = seat.name;
    this.client = seat.client;
    this.pid = seat.pid;
    this.lost = seat.lost;
    // Beats are counted, and not time: who was stopped has yet to read what came meanwhile.
    let unanswered = 0;
    const beat = setInterval(() => {
      unanswered = this.#asking === undefined ? 0 : unanswered + 1;
      if (unanswered > UNANSWERED_BEATS) destroy(this.client);
      else this.#ask().catch(() => undefined);
    }, BEAT_MS);
    void seat.lost.then(() => clearInterval(beat));
  }

  async held(): Promise<void> {
    while (performance.now() - this.#answered > SILENT_MS) await this.#ask();
  }

  leave(): Promise<void> {
    return this.#seat.leave();
  }

  #ask(): Promise<void> {
    this.#asking ??= this.#beat().finally(() => {
      this.#asking = undefined;
    });
    return this.#asking;
  }

  async #beat(): Promise<void> {
    const sent = performance.now();
    await this.client.query('');
    this.#answered = sent;
  }
}

/** Ends whoever holds the seat in silence, until `signal`. */
async function watch(
  options: ConnectOptions,
  name: string,
  patience: Patience,
  signal: AbortSignal,
): Promise<void> {
  await pause(BEAT_MS, signal);
  while (!signal.aborted) {
    try {
      const client = await connect({ ...options, name: `${options.name} watch` });
      const hangUp = () => void disconnect(client);
      signal.addEventListener('abort', hangUp, { once: true });
      try {
        while (!signal.aborted) {
          const silentMs = patience.ms;
          const impatience = setTimeout(() => destroy(client), ANSWER_MS);
          const silent = isSilent(client, name, { silentMs, end: true, log: options.log });
          if (await silent.finally(() => clearTimeout(impatience))) patience.tried();
          await pause(BEAT_MS, signal);
        }
      } finally {
        signal.removeEventListener('abort', hangUp);
        await disconnect(client);
      }
    } catch (error) {
      if (signal.aborted) return;
      options.log.debug({ err: error }, `cannot look at the seat's holder: ${messageOf(error)}`);
      await pause(BEAT_MS, signal);
    }
  }
}
