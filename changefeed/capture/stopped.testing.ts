import { expect } from 'vitest';
import { random } from '../testing/random.ts';
import { type CaptureProcess, end, spawnCapture, untilActive } from './processes.testing.ts';
import { runLoad } from './wal.testing.ts';

/** Another process captures after some 2 s; on a machine that is overloaded within this time, in most rounds. */
const TAKEOVER_MS = 10_000;

/**
 * Stops the active one of two captures under load (SIGSTOP), at random moments, sees that the other one captures in
 * time, and wakes the first one under load again. Answers how many changes were committed.
 */
export async function stopAndWake(
  postgres: string,
  env: Readonly<Record<string, string>>,
  options: { readonly rounds: number; readonly seed: number },
  verify: (count: number) => Promise<void>,
): Promise<void> {
  const next = random(options.seed);
  let active: CaptureProcess | undefined;
  let other: CaptureProcess | undefined;
  const times: number[] = [];
  let count = 0;
  try {
    active = await spawnCapture(postgres, env);
    await untilActive(active, true);
    other = await spawnCapture(postgres, env);
    for (let round = 0; round < options.rounds; round++) {
      let loading = true;
      const load = (async () => {
        let committed = 0;
        for (let n = 0; loading; n++) {
          const seed = options.seed + round * 1000 + n;
          committed += await runLoad(postgres, { sessions: 4, transactions: 10, seed });
        }
        return committed;
      })();
      await new Promise((resolve) => setTimeout(resolve, 100 + next() * 300));
      const stopped = performance.now();
      active.child.kill('SIGSTOP');
      await untilActive(other, true);
      const took = performance.now() - stopped;
      console.info(`a stopped capture was taken over after ${Math.round(took)} ms`);
      times.push(took);
      // It wakes with connections that are cut, requests half sent, and much that it has yet to append.
      active.child.kill('SIGCONT');
      await untilActive(active, false);
      loading = false;
      count += await load;
      [active, other] = [other, active];
    }
    expect(times.sort((a, b) => a - b)[Math.floor(times.length / 2)]).toBeLessThan(TAKEOVER_MS);
    await verify(count);
  } finally {
    active?.child.kill('SIGCONT');
    await Promise.all([active, other].map((one) => one && end(one, 'SIGTERM')));
  }
}
