import { pause } from '../backoff.ts';
import type { LogRecord, LogWriter } from '../types.ts';

/** Longer than any fault of a test. */
const patienceMs = 180_000;

/**
 * Appends as the capture does: where the log does not take records in time it is opened again, and its tails tell what of
 * them has arrived.
 */
export async function appendInTheEnd(writer: LogWriter, records: readonly LogRecord[]): Promise<void> {
  const end = performance.now() + patienceMs;
  for (let rest = records; ; ) {
    try {
      await writer.append(rest);
      return;
    } catch (error) {
      if (performance.now() > end) throw error;
      await pause(100);
      const tails = await writer.open().catch(() => []);
      rest = rest.filter(({ partition, position }) => position > (tails[partition] ?? ''));
    }
  }
}
