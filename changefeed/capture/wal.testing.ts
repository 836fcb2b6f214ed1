import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { random } from '../testing/random.ts';
import type { LogWriter } from '../types.ts';
import { CHANGE_PREFIX } from './assembler.ts';
import { decodePgOutput } from './pgoutput.ts';

/** A change as it was emitted. */
export interface Emitted {
  readonly partitionKey: string;
  readonly body: string;
}

export async function query<R extends pg.QueryResultRow>(
  url: string,
  text: string,
  values?: unknown[],
): Promise<R[]> {
  const client = new pg.Client(url);
  await client.connect();
  try {
    return (await client.query<R>(text, values)).rows;
  } finally {
    await client.end();
  }
}

/** Emits changes in one transaction on `client`, and commits. */
export async function emit(client: pg.Client, changes: readonly Emitted[]): Promise<void> {
  await client.query(
    `SELECT pg_logical_emit_message(true, '${CHANGE_PREFIX}' || key, body)
       FROM unnest($1::text[], $2::text[]) AS c(key, body)`,
    [changes.map((change) => change.partitionKey), changes.map((change) => change.body)],
  );
}

export interface Load {
  readonly sessions: number;
  readonly transactions: number;
  readonly seed: number;
}

/**
 * Concurrent sessions that each commit `transactions` transactions of one to five changes, with some that are rolled
 * back, or that change nothing that concerns the feed. Answers how many changes were committed.
 */
export async function runLoad(url: string, load: Load): Promise<number> {
  const counts = await Promise.all(
    Array.from({ length: load.sessions }, async (_, session) => {
      const next = random(load.seed * 1000 + session);
      const client = new pg.Client(url);
      await client.connect();
      let committed = 0;
      for (let n = 0; n < load.transactions; n++) {
        const changes = Array.from({ length: 1 + Math.floor(next() * 5) }, (_, i) => ({
          partitionKey: `owner-${Math.floor(next() * 20)}`,
          body: JSON.stringify({ session, n, i, pad: 'x'.repeat(Math.floor(next() * 1000)) }),
        }));
        await client.query('BEGIN');
        await emit(client, changes);
        if (next() < 0.1) await client.query(`SELECT pg_logical_emit_message(true, 'other', 'x')`);
        if (next() < 0.1)
          await client.query(`SELECT pg_logical_emit_message(false, '${CHANGE_PREFIX}k', 'x')`);
        if (next() < 0.1) {
          await client.query('ROLLBACK');
        } else {
          await client.query('COMMIT');
          committed += changes.length;
        }
      }
      await client.end();
      return committed;
    }),
  );
  return counts.reduce((a, b) => a + b, 0);
}

/** One line for each change: what it was, in which transaction, and where in it. */
export type Line = string;

/**
 * The truth about commit order, from a slot of its own that no capture touches and that nothing is streamed from. Make
 * it before the load. Of a slot that a capture has left it tells what is not confirmed.
 */
export class Witness {
  readonly #url: string;
  readonly #slot: string;

  constructor(url: string, slot = 'witness') {
    this.#url = url;
    this.#slot = slot;
  }

  async prepare(): Promise<void> {
    await query(this.#url, `SELECT pg_create_logical_replication_slot('${this.#slot}', 'pgoutput')`);
  }

  /** Everything that was committed since `prepare`, in commit order. */
  async lines(publication: string): Promise<Line[]> {
    const rows = await query<{ data: Buffer }>(
      this.#url,
      `SELECT data FROM pg_logical_slot_peek_binary_changes('${this.#slot}', NULL, NULL,
         'proto_version', '1', 'publication_names', '${publication}', 'messages', 'true')`,
    );
    const lines: Line[] = [];
    let xid = 0;
    let index = 0;
    for (const { data } of rows) {
      const message = decodePgOutput(data);
      if (message?.kind === 'begin') {
        xid = message.xid32;
        index = 0;
      } else if (
        message?.kind === 'message' &&
        message.transactional &&
        message.prefix.startsWith(CHANGE_PREFIX)
      ) {
        lines.push(`${xid} ${index++} ${message.prefix.slice(CHANGE_PREFIX.length)} ${message.content}`);
      }
    }
    return lines;
  }
}

/** What the embedded log holds, in the order in which it was appended. */
export async function logLines(url: string): Promise<Line[]> {
  const rows = await query<{ line: string }>(
    url,
    `SELECT xid || ' ' || idx || ' ' || partition_key || ' ' || body AS line FROM conger_log ORDER BY seq`,
  );
  return rows.map((row) => row.line);
}

/** A writer whose appends wait for `before`. */
export function appendingAfter(inner: LogWriter, before: () => Promise<void> | undefined): LogWriter {
  return {
    open: () => inner.open(),
    close: () => inner.close(),
    append: async (records) => {
      await before();
      await inner.append(records);
    },
  };
}

/** Drops the slots of a database, also those that a walsender has yet to let go of. */
export async function dropSlots(url: string): Promise<void> {
  await query(
    url,
    `SELECT pg_terminate_backend(active_pid, 30000), pg_drop_replication_slot(slot_name) FROM pg_replication_slots
      WHERE database = current_database()`,
  );
}

/** Resolves once a walsender has more to send than its client reads. */
export async function untilWalsenderWaits(client: pg.Client): Promise<void> {
  const waiting = `SELECT FROM pg_stat_activity WHERE backend_type = 'walsender' AND wait_event = 'WalSenderWriteData'`;
  while ((await client.query(waiting)).rowCount === 0) await sleep(20);
}

/** Resolves once the log holds `count` records or more. */
export async function untilAppended(url: string, count: number): Promise<void> {
  const client = new pg.Client(url);
  await client.connect();
  await client.query('LISTEN conger_log');
  try {
    let rung: () => void = () => undefined;
    client.on('notification', () => rung());
    client.on('error', () => rung());
    for (;;) {
      const bell = new Promise<void>((resolve) => {
        rung = resolve;
      });
      const { rows } = await client.query<{ n: number }>('SELECT count(*)::int AS n FROM conger_log');
      if ((rows[0]?.n ?? 0) >= count) return;
      await bell;
    }
  } finally {
    await client.end();
  }
}
