import { readdirSync, readFileSync } from 'node:fs';

/** Ticks a second of the times in /proc (USER_HZ), on every architecture of Linux that Node runs on. */
const hertz = 100;

interface Stat {
  readonly parent: number;
  /** Seconds, with those of children that have ended. */
  readonly cpu: number;
}

function statOf(pid: number): Stat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined;
  }
  // The command's name, in parentheses, may contain anything.
  const fields = text
    .slice(text.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
  const [, parent = 0] = fields;
  const ticks = fields.slice(11, 15).reduce((sum, n) => sum + n, 0);
  return { parent, cpu: ticks / hertz };
}

/** Seconds of CPU that a process and its children have used; NaN where there is no /proc. */
export function cpuOf(pid: number): number {
  const own = statOf(pid);
  if (own === undefined) return Number.NaN;
  const children = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((name) => statOf(Number(name)))
    .filter((stat) => stat?.parent === pid);
  return children.reduce((sum, stat) => sum + (stat?.cpu ?? 0), own.cpu);
}

/** The resident memory of a process, in MB; NaN where there is no /proc. */
export function memoryOf(pid: number): number {
  try {
    const kilobytes = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return Number(kilobytes) / 1024;
  } catch {
    return Number.NaN;
  }
}

/** The parent of a process: of a PostgreSQL backend, its postmaster. */
export function parentOf(pid: number): number {
  return statOf(pid)?.parent ?? Number.NaN;
}
