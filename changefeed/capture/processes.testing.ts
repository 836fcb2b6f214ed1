import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { until } from '../../test/until.ts';

const entry = fileURLToPath(new URL('../../dist/changefeed/capture/main.js', import.meta.url));

export interface CaptureProcess {
  readonly child: ChildProcess;
  readonly url: string;
}

/** A capture in a process of its own, ready. */
export async function spawnCapture(
  postgres: string,
  env: Readonly<Record<string, string>> = {},
): Promise<CaptureProcess> {
  const child = fork(entry, [], {
    env: { ...process.env, CONGER_POSTGRES: postgres, CONGER_LOG_LEVEL: 'fatal', ...env },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const [message] = await Promise.race([
    once(child, 'message'),
    once(child, 'exit').then(([code, signal]) => {
      throw new Error(`the capture ended at its start with ${code ?? signal}`);
    }),
  ]);
  return { child, url: message.ready.urls[0] };
}

/** Ends it; answers its exit code. */
export async function end({ child }: CaptureProcess, signal: NodeJS.Signals): Promise<number | null> {
  if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
  const exit = once(child, 'exit');
  child.kill(signal);
  return (await exit)[0];
}

export async function isActive(one: CaptureProcess): Promise<boolean> {
  const answer = (await (await fetch(`${one.url}/ping`)).json()) as { active: boolean };
  return answer.active;
}

/** A connection for questions that a stopped process has kept may end with the next question, which is asked again. */
export async function untilActive(one: CaptureProcess, active: boolean): Promise<void> {
  await until(`active is ${active}`, async () => (await isActive(one)) === active, 120_000);
}
