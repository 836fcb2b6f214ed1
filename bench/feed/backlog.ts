import { CHANGE_PREFIX } from '../../changefeed/capture/assembler.ts';
import { caughtUp, spawnCapture } from './capture.ts';
import { type Cost, costEach, minus, readCost } from './cost.ts';
import { type LogName, startMachine } from './machine.ts';

const perTransaction = 20;

export interface Backlog {
  readonly perSecond: number;
  /** Microseconds a change. */
  readonly cost: Cost;
}

/**
 * How fast a capture appends changes that are there already, from the start of its process on, with a PostgreSQL and a
 * log that are new.
 */
export async function measureBacklog(log: LogName, atLeast: number): Promise<Backlog> {
  const changes = Math.ceil(atLeast / perTransaction) * perTransaction;
  const machine = await startMachine(log);
  try {
    // Makes the slot, which is what keeps the changes.
    await (await spawnCapture(machine.env)).stop();
    await machine.client.query('SET synchronous_commit = off');
    await machine.client.query(`DO $$ BEGIN
      FOR tx IN 1 .. ${changes / perTransaction} LOOP
        PERFORM pg_logical_emit_message(true, '${CHANGE_PREFIX}owner-' || ((tx * ${perTransaction} + n) % 100),
                                        '${JSON.stringify({ pad: 'x'.repeat(1000) })}')
           FROM generate_series(1, ${perTransaction}) AS n;
        COMMIT;
      END LOOP;
    END $$`);
    // Of what the load has written, and not of the capture.
    await machine.client.query('CHECKPOINT');
    const start = performance.now();
    const capture = await spawnCapture(machine.env);
    try {
      const before = await readCost(machine, capture);
      await caughtUp(machine);
      const seconds = (performance.now() - start) / 1000;
      const cost = minus(await readCost(machine, capture), before);
      const appended = await capture.appended();
      if (appended !== changes) throw new Error(`${appended} changes were appended, of ${changes}`);
      return { perSecond: changes / seconds, cost: costEach(cost, changes) };
    } finally {
      await capture.stop();
    }
  } finally {
    await machine.stop();
  }
}
