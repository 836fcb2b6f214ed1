import type pg from 'pg';
import { failpoint } from '../../../runtime/failpoints.ts';
import type { LogRecord, Position } from '../../types.ts';

/** Records of one partition that one query brings at most, */
const FETCH_RECORDS = 250;
/** and bytes of all partitions together, in equal shares; a single record may be larger than its share. */
const FETCH_BYTES = 4 << 20;

interface Row {
  partition: number;
  position: string;
  partition_key: string;
  xid: string;
  idx: number;
  cnt: number;
  last: number | null;
  time: string;
  body: string;
}

/** Where to read on: behind `position` in `partition`. */
export interface Place {
  readonly partition: number;
  readonly position: Position;
}

/** What a partition holds behind a place. */
export interface Fetched {
  readonly records: readonly LogRecord[];
  /** There are others behind these. */
  readonly more: boolean;
  /** Records between the place and these are gone, or the log is not the one that the place is of. */
  readonly gap: boolean;
  /** Of the last record that was trimmed; '' where none was. */
  readonly trimmed: Position;
}

/**
 * The first records behind each place, by partition, in order; at least one, where there is any. A place is the position
 * of a record, or '' before the first: the record is there, or was the last one that was trimmed; else something is
 * missing.
 */
export async function fetchRecords(pool: pg.Pool, places: readonly Place[]): Promise<Map<number, Fetched>> {
  await failpoint('log.embedded.fetch.before');
  const { rows } = await pool.query<
    { place: number; held: boolean; trimmed: Position } & ((Row & { more: boolean }) | { position: null })
  >({
    name: 'conger-log-fetch',
    // Not EXISTS: planned while the log is short, it reads all of the log into a hash table, and goes on so.
    text: `SELECT place.partition AS place,
                  coalesce(t.position, '') = place.position COLLATE "C"
                  OR (SELECT true FROM conger_log h
                       WHERE h.partition = place.partition AND h.position = place.position COLLATE "C")
                     IS NOT NULL AS held,
                  coalesce(t.position, '') AS trimmed,
                  l.*
             FROM unnest($1::int[], $2::text[]) AS place(partition, position)
             LEFT JOIN conger_log_trimmed t ON t.partition = place.partition
             LEFT JOIN LATERAL (
              SELECT partition, position, partition_key, xid, idx, cnt, last, time, body, more
                FROM (SELECT *, row_number() OVER w AS nth, sum(octet_length(body)) OVER w AS bytes,
                             lead(position) OVER w IS NOT NULL AS more
                        FROM (SELECT * FROM conger_log
                               WHERE partition = place.partition AND position > place.position COLLATE "C"
                               ORDER BY position LIMIT ${FETCH_RECORDS} + 1) AS next
                      WINDOW w AS (ORDER BY position)) AS found
               WHERE nth = 1 OR (nth <= ${FETCH_RECORDS} AND bytes <= $3::int)
            ) AS l ON true
            ORDER BY place.partition, l.position`,
    values: [
      places.map((place) => place.partition),
      places.map((place) => place.position),
      Math.floor(FETCH_BYTES / places.length),
    ],
  });
  await failpoint('log.embedded.fetch.after');
  const found = new Map<number, Fetched & { records: LogRecord[]; more: boolean }>();
  for (const row of rows) {
    const { trimmed } = row;
    const fetched = found.get(row.place) ?? { records: [], more: false, gap: !row.held, trimmed };
    found.set(row.place, fetched);
    if (row.position === null) continue;
    fetched.records.push(recordOf(row));
    fetched.more = row.more;
  }
  return found;
}

function recordOf(row: Row): LogRecord {
  return {
    position: row.position,
    partition: row.partition,
    partitionKey: row.partition_key,
    xid: row.xid,
    index: row.idx,
    count: row.cnt,
    ...(row.last === null ? {} : { last: row.last }),
    time: Number(row.time),
    body: Buffer.from(row.body, 'utf8'),
  };
}

/** What one page of a partition holds at most; a single record may be larger. */
const PAGE_RECORDS = 500;
const PAGE_BYTES = 1 << 20;

/** The records behind a position, up to a page of them, in order. */
export async function fetchPage(pool: pg.Pool, partition: number, position: Position): Promise<LogRecord[]> {
  const { rows } = await pool.query<Row>({
    name: 'conger-log-page',
    text: `SELECT partition, position, partition_key, xid, idx, cnt, last, time, body
             FROM (SELECT *, row_number() OVER w AS nth, sum(octet_length(body)) OVER w AS bytes
                     FROM (SELECT * FROM conger_log
                            WHERE partition = $1 AND position > $2 COLLATE "C"
                            ORDER BY position LIMIT ${PAGE_RECORDS}) AS next
                   WINDOW w AS (ORDER BY position)) AS page
            WHERE nth = 1 OR bytes <= ${PAGE_BYTES}
            ORDER BY position`,
    values: [partition, position],
  });
  return rows.map(recordOf);
}

/** One partition as a reader of its last records finds it; '' where there is none. */
export interface Extent {
  readonly partition: number;
  /** Of the record before the last `tail` ones, or else of the last that was trimmed. */
  readonly from: Position;
  /** Of the last record. */
  readonly end: Position;
}

export async function readExtents(pool: pg.Pool, partitions: number, tail: number): Promise<Extent[]> {
  const { rows } = await pool.query<{ partition: number; from: string | null; end: string | null }>(
    `SELECT p.partition,
            coalesce((SELECT position FROM conger_log l WHERE l.partition = p.partition
                       ORDER BY position DESC OFFSET $2 LIMIT 1),
                     (SELECT position FROM conger_log_trimmed t WHERE t.partition = p.partition)) AS "from",
            (SELECT max(position) FROM conger_log l WHERE l.partition = p.partition) AS "end"
       FROM generate_series(0, $1::int - 1) AS p(partition)`,
    [partitions, tail],
  );
  return rows.map((row) => ({ partition: row.partition, from: row.from ?? '', end: row.end ?? '' }));
}

/**
 * Whether the partition holds everything behind a position, of whichever partition that is: nothing behind it was
 * trimmed, and it has, or had, a record up to it; a log that was emptied has not.
 */
export async function holdsBehind(pool: pg.Pool, partition: number, position: Position): Promise<boolean> {
  const { rows } = await pool.query<{ held: boolean }>(
    `SELECT $2 COLLATE "C" >= t.position
            AND ($2 = '' OR t.position <> '' OR EXISTS (
              SELECT 1 FROM conger_log WHERE partition = $1 AND position <= $2 COLLATE "C")) AS held
       FROM (SELECT coalesce((SELECT position FROM conger_log_trimmed WHERE partition = $1), '') AS position) AS t`,
    [partition, position],
  );
  return rows[0]?.held === true;
}

/** How many records each partition holds behind a place, by partition. */
export async function countBehind(pool: pg.Pool, places: readonly Place[]): Promise<Map<number, number>> {
  const { rows } = await pool.query<{ partition: number; count: number }>(
    `SELECT place.partition,
            (SELECT count(*) FROM conger_log l
              WHERE l.partition = place.partition AND l.position > place.position COLLATE "C")::int AS count
       FROM unnest($1::int[], $2::text[]) AS place(partition, position)`,
    [places.map((place) => place.partition), places.map((place) => place.position)],
  );
  return new Map(rows.map(({ partition, count }) => [partition, count]));
}
