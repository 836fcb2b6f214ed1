import type pg from 'pg';
import { messageOf } from '../../../runtime/errors.ts';
import type { Logger } from '../../../runtime/log.ts';
import { pause } from '../../backoff.ts';
import type { Seat } from '../../seat.ts';
import { isSilent } from '../../silence.ts';
import { buryDead } from './members.ts';

/**
 * A process that is stopped, or hangs, keeps its connections, and so its seat. So each says every second that it lives,
 * and is taken for dead where it was silent for 4 s and is so a second later: after 5 to 6 s, as in a group of Kafka
 * (log/kafka/membership.ts). A collection of garbage or a loaded machine does not take that long, and to be wrong about
 * it costs a rebalance and no more. The second look is for what all are silent in, as PostgreSQL itself being stopped:
 * once it goes on they are heard of before it.
 */
const BEAT_MS = 1_000;
const SILENT_MS = 4_000;
/** A question that is not answered for this long will find the seat lost, if it is ever. */
const ANSWER_MS = 5_000;

/** The connection's name: whoever has another one is of a version that says nothing, and never ended for that. */
export const MEMBER_NAME = 'conger log member, heard of';

/** Asks over the seat's connection until the seat is lost; gives it up where there is no answer. */
export async function beat(
  seat: Seat,
  ask: () => Promise<unknown>,
  giveUp: (error: unknown) => void,
): Promise<void> {
  const over = new AbortController();
  void seat.lost.then(() => over.abort());
  while (!over.signal.aborted) {
    const late = setTimeout(() => giveUp(new Error('PostgreSQL does not answer')), ANSWER_MS);
    try {
      await ask();
    } catch (error) {
      giveUp(error);
    } finally {
      clearTimeout(late);
    }
    await pause(BEAT_MS, over.signal);
  }
}

/**
 * For whoever waits for the seat, until `signal`: ends who holds it in silence. And removes the dead, as the wait may be
 * over a connection that is gone without a word.
 */
export async function watchOver(
  pool: pg.Pool,
  seat: string,
  signal: AbortSignal,
  log: Logger,
): Promise<void> {
  let silent = false;
  for (;;) {
    await pause(BEAT_MS, signal);
    if (signal.aborted) return;
    try {
      silent = await isSilent(pool, seat, { silentMs: SILENT_MS, end: silent, holder: MEMBER_NAME, log });
      await buryDead(pool);
    } catch (error) {
      silent = false;
      log.debug({ err: error, seat }, `cannot look after the members: ${messageOf(error)}`);
    }
  }
}
