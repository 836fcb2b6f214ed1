import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import type { Running } from '../supervisor.ts';

export interface NodeProcess {
  /** Compiled entry point. */
  readonly entry: string;
  readonly name: string;
  /** Shown by `ps` behind the name, and tells this process from one of another datacenter. */
  readonly mark: string;
  readonly env: NodeJS.ProcessEnv;
  readonly logFile: string;
}

const readyMessage = z.object({ ready: z.object({ urls: z.array(z.string()) }) });
const faultLine = z.object({ level: z.enum(['error', 'fatal']), msg: z.string() });

/** A line that a program wrote outside its logger, as one of the log. */
export function asLogLine(name: string, level: string, text: string): string {
  return `${JSON.stringify({ level, time: new Date().toISOString(), name, msg: text })}\n`;
}

/** What a process that ended most likely died of: the last fault among the lines that it logged. */
async function lastError(logFile: string, since: number): Promise<string | undefined> {
  const file = await open(logFile, 'r').catch(() => undefined);
  if (file === undefined) return undefined;
  try {
    const { size } = await file.stat();
    const from = Math.max(since, size - 65_536);
    const { buffer, bytesRead } = await file.read({ buffer: Buffer.alloc(size - from), position: from });
    const faults = buffer.subarray(0, bytesRead).toString('utf8').split('\n').flatMap(parseFault).reverse();
    const fault =
      faults.find(({ level }) => level === 'fatal') ?? faults.find(({ msg }) => /Error\b/.test(msg));
    return fault?.msg.split('\n')[0];
  } finally {
    await file.close();
  }
}

function parseFault(line: string): z.output<typeof faultLine>[] {
  try {
    const parsed = faultLine.safeParse(JSON.parse(line));
    return parsed.success ? [parsed.data] : [];
  } catch {
    return [];
  }
}

/** Puts what a child writes to stderr into its log, line by line; resolves when all of it is there. */
function logStderr(child: ChildProcess, name: string, logFile: string): Promise<void> {
  const { stderr } = child;
  if (stderr === null) return Promise.resolve();
  const log = createWriteStream(logFile, { flags: 'a', mode: 0o640 });
  return new Promise((resolve) => {
    log.once('error', () => resolve());
    log.once('finish', () => resolve());
    const lines = createInterface({ input: stderr });
    lines.on('line', (line) => log.write(asLogLine(name, 'error', line)));
    lines.once('close', () => log.end());
  });
}

async function describeEnd(child: ChildProcess, logFile: string, logged: number, errors: Promise<void>) {
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) => {
    child.once('exit', (...end) => resolve(end));
  });
  if (signal !== null) return signal;
  if (code === 0) return 'exit 0';
  // A grandchild may hold stderr open for longer.
  await Promise.race([errors, sleep(2_000)]);
  const error = await lastError(logFile, logged).catch(() => undefined);
  return `exit ${code}${error === undefined ? '' : `: ${error}`}`;
}

/**
 * Starts one process of Conger. It writes its log itself, so that nothing is lost when this process dies; what it
 * writes to stderr (warnings of Node, a crash) is put into the same log as JSON lines.
 */
export async function launchNode(spec: NodeProcess): Promise<Running> {
  const log = await open(spec.logFile, 'a', 0o640);
  const { size } = await log.stat();
  let child: ChildProcess;
  try {
    // A session of its own: the terminal's Ctrl-C is for us, who stop it in its turn.
    child = spawn(process.execPath, [spec.entry, spec.name, spec.mark], {
      detached: true,
      env: spec.env,
      stdio: ['ignore', log.fd, 'pipe', 'ipc'],
    });
  } finally {
    await log.close();
  }
  const failed = new Promise<string>((resolve) => {
    child.on('error', (error) => resolve(error.message));
  });
  const { pid } = child;
  if (pid === undefined) throw new Error(`${basename(spec.entry)}: ${await failed}`);
  const ended = describeEnd(child, spec.logFile, size, logStderr(child, spec.name, spec.logFile));
  const ready = new Promise<void>((resolve) => {
    child.on('message', (message) => {
      if (readyMessage.safeParse(message).success) resolve();
    });
  });
  return {
    pid,
    ready,
    ended,
    stop: () => {
      child.kill('SIGTERM');
    },
    kill: (signal) => {
      child.kill(signal);
    },
  };
}
