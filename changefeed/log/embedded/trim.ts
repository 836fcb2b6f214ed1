import type pg from 'pg';
import { failpoint } from '../../../runtime/failpoints.ts';
import type { Logger } from '../../../runtime/log.ts';
import { connect, disconnect } from '../../postgres.ts';

export interface TrimOptions {
  readonly postgres: string;
  readonly partitions: number;
  /** Records before this number go, */
  readonly fromSeq: number;
  /** and those that were committed before this time, in milliseconds since 1970. */
  readonly fromTime: number;
  /** Ends it, also where PostgreSQL does not answer. */
  readonly signal?: AbortSignal;
  readonly log: Logger;
}

/** Records of one partition that one statement looks at. */
const STEP = 2_000;

/**
 * Deletes old records, oldest first, in steps of bounded size. What is behind a record that stays, stays as well, though
 * a clock that was set back may say that it is older: a reader that finds the record at its place counts on all that
 * follows. The last record of a partition always stays: it says where the partition ends. How far a partition was trimmed is written down with the deletion.
 */
export async function trim(options: TrimOptions): Promise<number> {
  const client = await connect({ postgres: options.postgres, name: 'conger log trim', log: options.log });
  const hangUp = () => void disconnect(client);
  options.signal?.addEventListener('abort', hangUp);
  let total = 0;
  try {
    options.signal?.throwIfAborted();
    await failpoint('log.embedded.trim.before');
    for (const partition of await due(client, options)) {
      for (;;) {
        const { rows } = await client.query<{ gone: number }>(
          `WITH oldest AS (
             SELECT position, seq, time FROM conger_log WHERE partition = $1 ORDER BY position LIMIT ${STEP}
           ), gone AS (
             DELETE FROM conger_log
              WHERE partition = $1
                AND position IN (SELECT position FROM oldest)
                AND position < (SELECT max(position) FROM conger_log WHERE partition = $1)
                AND position < coalesce((SELECT min(position) FROM oldest WHERE seq >= $2 AND time >= $3), '~')
              RETURNING position
           ), noted AS (
             INSERT INTO conger_log_trimmed AS t (partition, position)
             SELECT $1, max(position) FROM gone HAVING count(*) > 0
             ON CONFLICT (partition) DO UPDATE SET position = greatest(t.position, excluded.position)
           )
           SELECT count(*)::int AS gone FROM gone`,
          [partition, options.fromSeq, options.fromTime],
        );
        const gone = rows[0]?.gone ?? 0;
        total += gone;
        if (gone < STEP) break;
      }
    }
    await failpoint('log.embedded.trim.after');
  } finally {
    options.signal?.removeEventListener('abort', hangUp);
    await disconnect(client);
  }
  if (total > 0) options.log.debug({ records: total }, 'trimmed the log');
  return total;
}

/** The partitions whose oldest record is to go. Mostly there are none, and then nothing more is read. */
async function due(client: pg.Client, { partitions, fromSeq, fromTime }: TrimOptions): Promise<number[]> {
  const { rows } = await client.query<{ partition: number }>(
    `SELECT p.partition
       FROM generate_series(0, $1::int - 1) AS p(partition)
      CROSS JOIN LATERAL (
        SELECT seq, time FROM conger_log l WHERE l.partition = p.partition ORDER BY position LIMIT 1
      ) AS oldest
      WHERE oldest.seq < $2 OR oldest.time < $3`,
    [partitions, fromSeq, fromTime],
  );
  return rows.map(({ partition }) => partition);
}
