import type { Change } from '../types.ts';
import type { CatchUp } from './catch-up.ts';
import type { Turns } from './turns.ts';

export interface LogFollower {
  readonly catchUp: CatchUp;
  readonly turns: Turns;
  /** Sends a change; a promise says when the reader has room for the next one. */
  readonly tell: (change: Change) => Promise<void> | undefined;
  /** All of a page was sent. */
  readonly pageOver: () => Promise<void> | undefined;
  /** Awaits what the reader's end is to interrupt. */
  readonly until: <T>(work: Promise<T>) => Promise<T>;
  /** Awaits a reader that may take nothing at all. */
  readonly unlessStuck: (taken: Promise<void>) => Promise<void>;
}

/** How long the readers' sockets may be waited for within a turn, in ms: reading a page again costs more. */
const patienceMs = 200;

/**
 * Sends what the log holds, page by page, until the ring holds the rest. A turn is for reading: who has to wait for its
 * reader for longer gives it back, with what is left of the page, which it reads again.
 */
export async function followLog(follower: LogFollower): Promise<void> {
  while (!follower.catchUp.done) {
    const taken = await sendPage(follower);
    if (taken !== undefined) await follower.unlessStuck(taken.promise);
  }
}

/** Answers what has to be waited for where the reader takes too long. */
async function sendPage(follower: LogFollower): Promise<{ readonly promise: Promise<void> } | undefined> {
  const { catchUp, turns, tell, pageOver, until } = follower;
  const turn = turns.take();
  try {
    await until(turn.begun);
    let patience = patienceMs;
    for (const change of await until(catchUp.page())) {
      const taken = catchUp.pass(change) ? tell(change) : undefined;
      if (taken === undefined) continue;
      const began = performance.now();
      if (!(await isTakenWithin(taken, patience))) return { promise: taken };
      patience -= performance.now() - began;
    }
    const taken = pageOver();
    return taken && { promise: taken };
  } finally {
    turn.over();
  }
}

async function isTakenWithin(taken: Promise<void>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), ms);
  });
  try {
    return await Promise.race([taken.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}
