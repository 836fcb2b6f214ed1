import { spawn } from 'node:child_process';

/** A command that ended with another status than 0, or that did not end in time. */
export class CommandError extends Error {
  readonly stderr: string;

  constructor(command: string, stderr: string, status: string) {
    super(`${command}: ${stderr.trim() || status}`);
    this.name = 'CommandError';
    this.stderr = stderr;
  }
}

/** Milliseconds after which a command that hangs is killed. */
export const patience = 30_000;

/**
 * Runs a command to its end, with `input` on its standard input.
 * @returns what it wrote to its standard output.
 * @throws CommandError with what it wrote to its standard error.
 */
export function run(command: string, args: readonly string[], input = ''): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      timeout: patience,
      killSignal: 'SIGKILL',
    });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
    const name = [command, ...args].join(' ');
    child.on('error', (error) => reject(new CommandError(name, error.message, 'cannot start')));
    child.on('close', (code, signal) => {
      if (code === 0) resolve(Buffer.concat(out).toString());
      else reject(new CommandError(name, Buffer.concat(err).toString(), `status ${code ?? signal}`));
    });
    // A command that ends before it has read everything reports its failure by its status.
    child.stdin.on('error', () => {});
    child.stdin.end(input);
  });
}
