import type pg from 'pg';
import { messageOf } from '../../../runtime/errors.ts';
import { failpoint } from '../../../runtime/failpoints.ts';
import type { Logger } from '../../../runtime/log.ts';
import { isEndOfWait } from '../../../runtime/postgres/end-of-wait.ts';
import { answered } from '../../answered.ts';
import { type ConnectOptions, connect, disconnect } from '../../postgres.ts';
import type { LogRecord, LogWriter, Position } from '../../types.ts';
import { COPY_COLUMNS, CopyStatement, encodeCopy } from './copy.ts';
import { ensureLog, LOG_CHANNEL } from './schema.ts';
import { trim } from './trim.ts';

export interface EmbeddedWriterOptions {
  readonly postgres: string;
  readonly partitions: number;
  /** A record is kept for this long (by its commit time), */
  readonly retainMs: number;
  /** or until this many newer ones are there, over all partitions. The last one of a partition always stays. */
  readonly retainRecords: number;
  readonly log: Logger;
}

/** By this name a writer finds its predecessors. */
const WRITER_NAME = 'conger log writer';
/** How long a predecessor's backend may take to end. */
const TERMINATION_MS = 5_000;

/** How long a trim may go on when the writer is closed. */
const TRIM_GRACE_MS = 1_000;
/** Appended records after which old ones are looked for. */
const TRIM_EVERY = 10_000;

/**
 * Appends to the table. Each append is one transaction that first holds the writer's generation still (FOR SHARE): a
 * writer that was taken over appends nothing more, and when `open` returns, an append that its predecessor had in flight
 * is either done or will never be. So the tails that `open` answers are final, and rows become visible in the order of
 * their positions. Appends are sent one after the other, and none behind one that failed.
 */
export class EmbeddedWriter implements LogWriter {
  readonly #options: EmbeddedWriterOptions;
  #client: pg.Client | undefined;
  /** PostgreSQL was told to wait no longer for the standby. */
  #doubtful = false;
  #generation = 0n;
  #nextSeq = 0;
  /** The last append of this opening, and so all of them. */
  #last: Promise<void> = Promise.resolve();
  #sinceTrim = TRIM_EVERY;
  #trimming: Promise<unknown> | undefined;
  readonly #closing = new AbortController();

  constructor(options: EmbeddedWriterOptions) {
    this.#options = options;
  }

  async open(): Promise<readonly Position[]> {
    await disconnect(this.#client);
    const client = await connect(this.#connection(WRITER_NAME));
    this.#client = client;
    this.#doubtful = false;
    client.on('notice', (notice) => {
      if (isEndOfWait(notice) && this.#client === client) this.#doubtful = true;
    });
    return await this.#answered(client, this.#takeOver(client));
  }

  async #takeOver(client: pg.Client): Promise<readonly Position[]> {
    await ensureLog(client, this.#options.partitions);
    // The doorbell is only as good as the row it announces is durable.
    await client.query('SET synchronous_commit = on');
    await failpoint('log.embedded.takeover.before');
    // A predecessor that stopped in the middle of an append would hold the generation for good.
    await client.query(
      `SELECT pg_terminate_backend(pid, ${TERMINATION_MS}) FROM pg_stat_activity
        WHERE application_name = $1 AND datname = current_database() AND pid <> pg_backend_pid()`,
      [WRITER_NAME],
    );
    const taken = await client.query<{ generation: string }>(
      'UPDATE conger_log_writer SET generation = generation + 1 RETURNING generation',
    );
    this.#generation = BigInt(taken.rows[0]?.generation ?? 0);
    // Waited for its own commit, it has waited for all before it: what it finds in the table is durable as well.
    this.#assertDurable();
    await failpoint('log.embedded.takeover.after');
    const { rows } = await client.query<{ position: string | null; seq: string | null }>(
      `SELECT last.position, last.seq
         FROM generate_series(0, $1::int - 1) AS p(partition)
         LEFT JOIN LATERAL (
           SELECT position, seq FROM conger_log l WHERE l.partition = p.partition ORDER BY position DESC LIMIT 1
         ) AS last ON true
        ORDER BY p.partition`,
      [this.#options.partitions],
    );
    this.#nextSeq = Math.max(0, ...rows.map((row) => Number(row.seq ?? 0))) + 1;
    this.#last = Promise.resolve();
    return rows.map((row) => row.position ?? '');
  }

  append(records: readonly LogRecord[]): Promise<void> {
    if (records.length === 0) return this.#last;
    const client = this.#client;
    if (client === undefined) return Promise.reject(new Error('the log is not open'));
    const touched = [...new Set(records.map((record) => record.partition))];
    // Encoded now, while PostgreSQL works on the one before.
    const statement = new CopyStatement(
      `SELECT conger_log_fence(${this.#generation});
       COPY conger_log (${COPY_COLUMNS}) FROM STDIN (FORMAT binary);
       NOTIFY ${LOG_CHANNEL}, '${touched.join(',')}'`,
      encodeCopy(records, this.#nextSeq),
    );
    this.#nextSeq += records.length;
    const append = this.#last.then(async () => {
      await failpoint('log.embedded.append.before');
      client.query(statement);
      await this.#answered(client, statement.done);
      this.#assertDurable();
      await failpoint('log.embedded.append.after');
    });
    this.#last = append;
    append.then(
      () => {
        this.#sinceTrim += records.length;
        this.#trimNowAndThen();
      },
      () => undefined,
    );
    return append;
  }

  async close(): Promise<void> {
    const client = this.#client;
    this.#client = undefined;
    const impatience = setTimeout(() => this.#closing.abort(), TRIM_GRACE_MS);
    await Promise.all([this.#trimming, disconnect(client)]);
    clearTimeout(impatience);
  }

  #answered<T>(client: pg.Client, answer: Promise<T>): Promise<T> {
    return answered(client, this.#connection(`${WRITER_NAME} doubt`), answer);
  }

  #connection(name: string): ConnectOptions {
    const { postgres, log } = this.#options;
    return { postgres, name, log };
  }

  /** @throws Error where a commit was answered that the standby may not have: it may be gone with the primary */
  #assertDurable(): void {
    if (this.#doubtful) throw new Error('the standby has not confirmed what was appended');
  }

  /** On a connection of its own, so that no append waits for it. */
  #trimNowAndThen(): void {
    if (this.#sinceTrim < TRIM_EVERY || this.#trimming !== undefined) return;
    this.#sinceTrim = 0;
    const { postgres, log, partitions, retainMs, retainRecords } = this.#options;
    const keep = {
      fromSeq: this.#nextSeq - retainRecords,
      fromTime: Date.now() - retainMs,
    };
    this.#trimming = trim({ postgres, log, partitions, signal: this.#closing.signal, ...keep })
      .catch((error) => log.warn({ err: error }, `old records were not trimmed: ${messageOf(error)}`))
      .finally(() => {
        this.#trimming = undefined;
      });
  }
}
