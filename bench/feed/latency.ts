import { fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { CHANGE_PREFIX } from '../../changefeed/capture/assembler.ts';
import { spawnCapture } from './capture.ts';
import { now } from './clock.ts';
import { type LogName, startMachine } from './machine.ts';

const writesPerSecond = 200;

/**
 * Milliseconds from the statement that writes a change to when a consumer in another process has it, sorted; at 200
 * changes a second.
 */
export async function measureLatency(log: LogName, seconds: number): Promise<number[]> {
  const machine = await startMachine(log);
  try {
    const capture = await spawnCapture(machine.env);
    const consumer = fork(fileURLToPath(new URL('consumer.js', import.meta.url)), { env: machine.env });
    const latencies: number[] = [];
    await new Promise((resolve) => {
      consumer.on('message', (message) => {
        if (message === 'reading') resolve(undefined);
        else latencies.push(...(message as number[]));
      });
    });
    // The first second is warming up.
    const writes = (seconds + 1) * writesPerSecond;
    const start = now();
    for (let n = 0; n < writes; n++) {
      const early = start + (n * 1000) / writesPerSecond - now();
      if (early > 0) await sleep(early);
      await machine.client.query('SELECT pg_logical_emit_message(true, $1, $2)', [
        `${CHANGE_PREFIX}owner-${n % 100}`,
        JSON.stringify({ sent: now(), pad: 'x'.repeat(980) }),
      ]);
    }
    while (latencies.length < writes) await once(consumer, 'message');
    consumer.disconnect();
    await Promise.all([once(consumer, 'exit'), capture.stop()]);
    return latencies.slice(writesPerSecond).sort((a, b) => a - b);
  } finally {
    await machine.stop();
  }
}
