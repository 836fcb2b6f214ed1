import type pg from 'pg';
import type { Logger } from '../../runtime/log.ts';
import { slotWal, type WalBudget } from '../../runtime/postgres/slot-wal.ts';
import { lsnToBigint } from '../position.ts';
import type { Position } from '../types.ts';
import { type Parts, StreamAnewError } from './parts.ts';
import type { ReplicationStream } from './replication.ts';

/** How often who captures looks at what PostgreSQL does not tell. */
const LOOK_MS = 5_000;
/** Looks that may be due while one is not answered. */
const LATE_LOOKS = 2;

export interface WatchOptions {
  readonly control: pg.Client;
  readonly slot: string;
  readonly stream: Pick<ReplicationStream, 'paused' | 'confirmed'>;
  /** The position of the last change that was appended. */
  readonly appended: () => Position;
  readonly budget: WalBudget;
  readonly parts: Parts;
  /** Called where the stream has to begin anew, or does not come any more. */
  readonly giveUp: (error: Error) => void;
  readonly log: Logger;
}

/**
 * Nobody tells when WAL gathers, when a transaction ends, or when the other side of a connection is gone without a word,
 * so who captures asks. Answers how to end that.
 */
export function watch(options: WatchOptions): () => void {
  const { control, slot, stream, appended, budget, parts, giveUp, log } = options;
  let progress: string | undefined;
  const look = async () => {
    const before = progress;
    progress = `${appended()} ${stream.confirmed}`;
    const wal = await slotWal(control, slot);
    if (wal?.active !== true) giveUp(new Error('PostgreSQL does not read the slot any more'));
    if (wal !== undefined) budget.judge(wal);
    if (wal?.status === 'unreserved' && stream.paused && progress === before) {
      // PostgreSQL's checkpoint waits for a walsender that it ends, and that one for us to read why. Where the log takes
      // something the stream goes on by itself.
      giveUp(new Error('PostgreSQL needs the WAL of the slot, and the log takes nothing'));
    }
    if (await parts.allowAgain(control, lsnToBigint(stream.confirmed))) {
      giveUp(new StreamAnewError('large transactions may come in parts again', []));
    }
  };
  let late = 0;
  let looking: Promise<void> | undefined;
  const timer = setInterval(() => {
    if (looking !== undefined) {
      if (++late > LATE_LOOKS) giveUp(new Error('PostgreSQL does not answer'));
      return;
    }
    late = 0;
    looking = look()
      .catch((error) => log.debug({ err: error }, 'what the slot holds is not known'))
      .finally(() => {
        looking = undefined;
      });
  }, LOOK_MS);
  return () => clearInterval(timer);
}
