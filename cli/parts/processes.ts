import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** The command line of a running process, undefined when there is none. */
export async function commandOf(pid: number): Promise<string | undefined> {
  if (!Number.isInteger(pid) || pid <= 0) return undefined;
  if (process.platform === 'linux') {
    const raw = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    return raw === '' ? undefined : raw.split('\0').join(' ').trim();
  }
  const { stdout } = await run('ps', ['-o', 'command=', '-p', String(pid)]).catch(() => ({ stdout: '' }));
  return stdout.trim() === '' ? undefined : stdout.trim();
}

/** When a process was started, as text that no later process of the same number has; undefined when there is none. */
export async function startOf(pid: number): Promise<string | undefined> {
  if (process.platform === 'linux') {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    // The second field is the program's name and may hold spaces and brackets. Behind it come the state, which shows a
    // process that has ended and is not reaped yet, and in the 22nd field the start.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
  }
  const { stdout } = await run('ps', ['-o', 'lstart=', '-p', String(pid)]).catch(() => ({ stdout: '' }));
  return stdout.trim() === '' ? undefined : stdout.trim();
}

/**
 * The processes whose command line ends with these arguments: a text stands for itself, an expression for all of an
 * argument that it matches.
 */
export async function findByLastArguments(...last: readonly (string | RegExp)[]): Promise<number[]> {
  if (process.platform === 'linux') {
    const ends = endsWith(last, '\0');
    const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
    const found = await Promise.all(
      pids.map(async (pid) => {
        const raw = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
        return ends.test(raw.replace(/\0$/, '')) ? [Number(pid)] : [];
      }),
    );
    return found.flat();
  }
  const ends = endsWith(last, ' ');
  const { stdout } = await run('ps', ['-axww', '-o', 'pid=,command=']).catch(() => ({ stdout: '' }));
  const lines = stdout.split('\n').filter((line) => ends.test(line));
  return lines.map((line) => Number.parseInt(line, 10));
}

function endsWith(last: readonly (string | RegExp)[], separator: string): RegExp {
  const parts = last.map((part) =>
    typeof part === 'string' ? part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&') : part.source,
  );
  return new RegExp(`${separator}${parts.join(separator)}$`);
}
