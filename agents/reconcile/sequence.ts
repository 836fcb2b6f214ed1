import type { Change, Kernel, TableName } from '../driver/types.ts';

/**
 * The steps from one kernel to another, in three parts between which the firewall is put in force: what has to go or
 * change goes before (`teardown`), what comes, comes after (`setup`), and what nothing uses any more goes last (`tidy`). So a
 * VM's NIC is in no bridge before its rules are in force, nor after they are gone.
 */
export interface Sequence {
  readonly teardown: readonly Change[];
  readonly setup: readonly Change[];
  readonly tidy: readonly Change[];
}

const equal = (a: object | undefined, b: object | undefined) => {
  if (a === undefined || b === undefined) return a === b;
  const other = b as Record<string, unknown>;
  return Object.entries(a).every(([field, value]) => other[field] === value);
};

const step = (table: TableName, op: Change['op'], key: string, row: object) =>
  ({ table, op, key, row }) as unknown as Change;

/**
 * Compares the kernels row by row. A row that is right is not touched. A port or VXLAN device that differs is made
 * anew, and with it what hangs on it.
 * @param restarts UUIDs of VMs that are to be made anew though nothing differs.
 */
export function sequence(desired: Kernel, actual: Kernel, restarts: ReadonlySet<string>): Sequence {
  const teardown: Change[] = [];
  const setup: Change[] = [];
  const tidy: Change[] = [];

  const lostVxlans = new Set<string>();
  const anew = (table: 'ports' | 'vxlans' | 'machines', key: string, row: object) =>
    teardown.push(step(table, 'remove', key, row));
  for (const [key, row] of actual.ports) {
    const same = equal(desired.ports.get(key), row) && !restarts.has(row.machine);
    if (!same) anew('ports', key, row);
  }
  for (const [key, row] of actual.machines) {
    const wanted = desired.machines.get(key);
    if (wanted === undefined || wanted.namespace !== row.namespace || restarts.has(key))
      anew('machines', key, row);
    else if (row.running && !wanted.running) teardown.push(step('machines', 'set', key, wanted));
  }
  for (const [key, row] of actual.vxlans) {
    const wanted = desired.vxlans.get(key);
    if (equal(wanted, row)) continue;
    lostVxlans.add(key);
    if (wanted !== undefined) anew('vxlans', key, row);
    else tidy.push(step('vxlans', 'remove', key, row));
  }

  const put = (table: TableName, has: (key: string, row: object) => boolean) => {
    for (const [key, row] of desired[table]) {
      if (!has(key, row)) setup.push(step(table, 'put', key, row));
    }
  };
  for (const [key, row] of desired.bridges) {
    const now = actual.bridges.get(key);
    if (!equal(now, row)) setup.push(step('bridges', now === undefined ? 'put' : 'set', key, row));
  }
  put('vxlans', (key) => actual.vxlans.has(key) && !lostVxlans.has(key));
  for (const [key, row] of actual.forwards) {
    if (!desired.forwards.has(key) && !lostVxlans.has(row.vxlan))
      setup.push(step('forwards', 'remove', key, row));
  }
  put('forwards', (key, row) => {
    const now = actual.forwards.get(key);
    return now !== undefined && !lostVxlans.has(now.vxlan) && equal(now, row);
  });
  for (const [key, row] of actual.neighbours) {
    if (!desired.neighbours.has(key) && desired.bridges.has(row.bridge)) {
      setup.push(step('neighbours', 'remove', key, row));
    }
  }
  put('neighbours', (key, row) => equal(actual.neighbours.get(key), row));
  put('machines', (key, row) => {
    const now = actual.machines.get(key);
    const stopped = now?.running === true && 'running' in row && row.running === false;
    return (equal(now, row) || stopped) && !restarts.has(key);
  });
  put('ports', (key, row) => {
    const now = actual.ports.get(key);
    return equal(now, row) && !restarts.has(now?.machine ?? '');
  });

  for (const [key, row] of actual.bridges) {
    if (!desired.bridges.has(key)) tidy.push(step('bridges', 'remove', key, row));
  }
  return { teardown, setup, tidy };
}

/** What each difference is, one line each. */
export function describe({ teardown, setup, tidy }: Sequence): string[] {
  return [...teardown, ...setup, ...tidy].map(
    ({ table, op, key, row }) =>
      `${table} ${key}: ${op === 'remove' ? 'should not be' : 'should be'} ${JSON.stringify(row)}`,
  );
}
