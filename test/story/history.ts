import { parseChange } from '../../changefeed/change.ts';
import { openLogReader } from '../../changefeed/log/index.ts';
import type { Change } from '../../changefeed/types.ts';
import type { Endpoints } from '../../cli/endpoints.ts';
import { loadConfig } from '../../runtime/config.ts';
import { silentLogger } from '../../runtime/log.ts';
import type { Seen } from './listener.ts';

/** Everything that the log holds, by partition, in its order. */
export async function readHistory(endpoints: Endpoints): Promise<Change[][]> {
  const config = loadConfig({
    CONGER_POSTGRES: endpoints.postgres,
    ...(endpoints.kafka === null ? {} : { CONGER_KAFKA: endpoints.kafka.join(',') }),
  });
  const reader = await openLogReader(config, silentLogger());
  try {
    const history: Change[][] = Array.from({ length: reader.partitions }, () => []);
    const reading = await reader.readAll(1_000_000, (batch) => {
      history[batch.partition]?.push(...batch.records.map((record) => parseChange(record)));
    });
    await reading.stop();
    return history;
  } finally {
    await reader.close();
  }
}

/** The changes of one bucket, as a listener should have seen them. */
export function expectedOf(history: readonly Change[][], bucket: string): Seen[][] {
  return history.map((partition) =>
    partition
      .filter((change) => change.bucket === bucket)
      .map(({ partition: number, position, op, key, etag }) => ({
        partition: number,
        position,
        type: op,
        key,
        etag,
      })),
  );
}

/**
 * What is wrong with what a listener saw: changes that are missing, that came twice, out of order, or that the log
 * does not hold; a line each. Partitions are independent of each other.
 */
export function violations(expected: readonly Seen[][], seen: readonly Seen[]): string[] {
  const problems: string[] = [];
  for (const change of seen)
    if (expected[change.partition] === undefined) problems.push(`refused: ${change.position}`);
  for (const [partition, wanted] of expected.entries()) {
    const got = seen.filter((change) => change.partition === partition);
    const at = Math.max(wanted.length, got.length);
    for (let i = 0; i < at; i++) {
      if (JSON.stringify(wanted[i]) === JSON.stringify(got[i])) continue;
      problems.push(
        `partition ${partition}, change ${i}: expected ${JSON.stringify(wanted[i])}, saw ${JSON.stringify(got[i])}`,
      );
      break;
    }
  }
  return problems;
}
