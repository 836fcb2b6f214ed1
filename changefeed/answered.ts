import type pg from 'pg';
import { messageOf } from '../runtime/errors.ts';
import { destroy } from '../runtime/postgres/host-watch.ts';
import { type ConnectOptions, connect, disconnect } from './postgres.ts';

/** After how long without an answer PostgreSQL is asked what it waits for, and again each time after that. */
const DOUBT_MS = 15_000;
/** What it says to that is of no use later. */
const REPLY_MS = 5_000;
/** For how long PostgreSQL has heard nothing from who does not reach it any more. */
const UNHEARD_MS = 10_000;

/**
 * Awaits what is asked over `client`, however long PostgreSQL takes for it: it may wait for a lock, or for a standby.
 * But where PostgreSQL waits for us as we wait for it, the connection is gone without a word, which TCP takes a quarter
 * of an hour to notice.
 * @param doubt the connection over which PostgreSQL is asked what it waits for
 * @throws Error where it waits for us
 */
export async function answered<T>(client: pg.Client, doubt: ConnectOptions, answer: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const unheard = new Promise<never>((_, reject) => {
    timer = setInterval(() => {
      waitsForUs(client, doubt).then(
        (yes) => yes && reject(new Error('PostgreSQL waits for what was sent to it')),
        (error) => doubt.log.debug({ err: error }, `cannot ask what PostgreSQL does: ${messageOf(error)}`),
      );
    }, DOUBT_MS);
  });
  try {
    return await Promise.race([answer, unheard]);
  } finally {
    clearInterval(timer);
  }
}

/** Whether the backend of `client` has waited for its client for a while, or is gone. */
export async function waitsForUs(client: pg.Client, doubt: ConnectOptions): Promise<boolean> {
  const asking = await connect(doubt);
  const impatience = setTimeout(() => destroy(asking), REPLY_MS);
  try {
    const busy = await asking.query(
      `SELECT FROM pg_stat_activity WHERE pid = $1
          AND (wait_event = 'ClientRead' AND state_change < clock_timestamp() - $2 * interval '1 ms') IS NOT TRUE`,
      [pidOf(client), UNHEARD_MS],
    );
    return busy.rowCount === 0;
  } finally {
    clearTimeout(impatience);
    await disconnect(asking);
  }
}

/** The process id of the backend, which pg has and its types do not show. */
function pidOf(client: pg.Client): number {
  return (client as unknown as { readonly processID: number }).processID;
}
