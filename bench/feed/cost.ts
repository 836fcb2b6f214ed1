import { cpuOf } from '../kv/cpu.ts';
import type { CaptureProcess } from './capture.ts';
import type { Machine } from './machine.ts';

/** Seconds of processor time of everyone who has a part in a change on its way into the log. */
export interface Cost {
  readonly capture: number;
  /** PostgreSQL's process that reads the WAL for the capture. */
  readonly walsender: number;
  /** Where the log takes it: the backend of the embedded log's writer, or the broker. */
  readonly log: number;
  /** PostgreSQL's other processes. */
  readonly others: number;
}

/** What the processes have used so far. Taken while the capture runs: PostgreSQL's processes for it end with it. */
export async function readCost(machine: Machine, capture: CaptureProcess): Promise<Cost> {
  const { rows } = await machine.client.query<{ pid: number; type: string }>(
    `SELECT pid, backend_type AS type FROM pg_stat_activity
      WHERE backend_type = 'walsender' OR application_name = 'conger log writer'`,
  );
  const cpu = (walsender: boolean) =>
    rows
      .filter(({ type }) => (type === 'walsender') === walsender)
      .reduce((sum, { pid }) => sum + cpuOf(pid), 0);
  const [walsender, writer] = [cpu(true), cpu(false)];
  return {
    capture: cpuOf(capture.pid),
    walsender,
    log: machine.broker === undefined ? writer : cpuOf(machine.broker),
    others: cpuOf(machine.postmaster) - walsender - writer,
  };
}

export function minus(after: Cost, before: Cost): Cost {
  return {
    capture: after.capture - before.capture,
    walsender: after.walsender - before.walsender,
    log: after.log - before.log,
    others: after.others - before.others,
  };
}

/** In microseconds for each of so many changes. */
export function costEach(cost: Cost, changes: number): Cost {
  const each = (seconds: number) => (seconds / changes) * 1e6;
  return {
    capture: each(cost.capture),
    walsender: each(cost.walsender),
    log: each(cost.log),
    others: each(cost.others),
  };
}
