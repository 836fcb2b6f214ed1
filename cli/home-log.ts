import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { z } from 'zod';
import { messageOf } from '../runtime/errors.ts';
import { primaryNow } from '../runtime/postgres/primary.ts';
import { type Home, writeWhole } from './home.ts';

/** Which log the changes of a home are kept in. */
const homeLogSchema = z.discriminatedUnion('kind', [
  /** The table in the home's PostgreSQL. */
  z.object({ kind: z.literal('embedded') }),
  /** The broker that the home starts. */
  z.object({ kind: z.literal('kafka'), topic: z.string() }),
  /** Brokers that were given, in the order of their names. */
  z.object({ kind: z.literal('brokers'), brokers: z.array(z.string()), topic: z.string() }),
]);

export type HomeLog = z.output<typeof homeLogSchema>;

/** `kafka` as in DatacenterOptions: whether a broker is started, or which are used. */
export function homeLogOf(kafka: boolean | readonly string[], topic: string): HomeLog {
  if (kafka === false) return { kind: 'embedded' };
  return kafka === true ? { kind: 'kafka', topic } : { kind: 'brokers', brokers: [...kafka].sort(), topic };
}

/** The log that the home was last used with; undefined where that is not known. */
export async function readHomeLog(home: Home): Promise<HomeLog | undefined> {
  const text = await readFile(home.changes, 'utf8').catch(() => undefined);
  if (text === undefined) return undefined;
  try {
    return homeLogSchema.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}

export interface LogSwitch {
  readonly home: Home;
  readonly log: HomeLog;
  readonly postgres: string;
  /** The capture's replication slot. */
  readonly slot: string;
  readonly say: (line: string) => void;
}

/**
 * Makes the home's log the one that is wanted. Another one than before has none of the changes that were made so far,
 * so everything that says how far they have been read goes: the slot (the capture begins a new epoch, and cursors of
 * the one before count no more), the checkpoints (consumers derive everything from the state) and what an embedded log
 * still holds. To be called while nothing runs but PostgreSQL. It can be repeated where it was cut off: the log is
 * remembered last.
 * @throws Error where another datacenter works with the same PostgreSQL
 */
export async function useLog({ home, log, postgres, slot, say }: LogSwitch): Promise<void> {
  const before = await readHomeLog(home);
  if (before !== undefined && same(before, log)) return;
  const outcome = await forget(postgres, slot, log.kind === 'embedded');
  if (outcome === 'inUse' && before !== undefined) {
    throw new Error(
      `the log of changes cannot be exchanged while another datacenter works with this PostgreSQL (slot ${slot})`,
    );
  }
  if (outcome === 'forgotten') {
    const was =
      before === undefined ? 'where it was before is not known' : `before, it was ${describe(before)}`;
    say(
      `the log of changes is ${describe(log)} from now on (${was}): everything is derived anew from the state`,
    );
  }
  await writeWhole(home.changes, `${JSON.stringify(log)}\n`);
}

/** Whether it would have to be read at another place. */
function same(one: HomeLog, other: HomeLog): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

function describe(log: HomeLog): string {
  if (log.kind === 'embedded') return 'in PostgreSQL';
  const where = log.kind === 'kafka' ? "the home's own Kafka" : `Kafka at ${log.brokers.join(',')}`;
  return `in ${where} (topic ${log.topic})`;
}

/** How long the slot may still be held by a capture of the last run, whose connection is about to be noticed as gone. */
const releaseMs = 5_000;
const connectMs = 10_000;
const checkpoints = 'kv.conger_checkpoints';
const embedded = ['conger_log', 'conger_log_trimmed'];

/** Answers whether there was anything to forget, or `inUse` where another process captures: then nothing was done. */
async function forget(
  postgres: string,
  slot: string,
  emptyEmbedded: boolean,
): Promise<'forgotten' | 'nothing' | 'inUse'> {
  let client: pg.Client | undefined;
  try {
    client = new pg.Client({
      connectionString: await primaryNow(postgres, connectMs),
      connectionTimeoutMillis: connectMs,
    });
    client.on('error', () => {});
    await client.connect();
    const found = await released(client, slot);
    if (found === 'inUse') return 'inUse';
    // The slot last: without it a gap is noticed, whatever else was done.
    const rows = await emptied(client, emptyEmbedded ? [checkpoints, ...embedded] : [checkpoints]);
    if (found === 'free') await client.query('SELECT pg_drop_replication_slot($1)', [slot]);
    return rows > 0 || found === 'free' ? 'forgotten' : 'nothing';
  } catch (cause) {
    throw new Error(`the log of changes cannot be exchanged: ${messageOf(cause)}`, { cause });
  } finally {
    await client?.end().catch(() => {});
  }
}

async function released(client: pg.Client, slot: string): Promise<'absent' | 'free' | 'inUse'> {
  for (let waited = 0; ; waited += 100) {
    const { rows } = await client.query<{ active: boolean }>(
      'SELECT active FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database()',
      [slot],
    );
    if (rows[0] === undefined) return 'absent';
    if (!rows[0].active) return 'free';
    if (waited >= releaseMs) return 'inUse';
    await sleep(100);
  }
}

/** Deletes every row of those tables that are there, all or none, and answers how many there were. */
async function emptied(client: pg.Client, tables: readonly string[]): Promise<number> {
  const { rows } = await client.query<{ name: string }>(
    'SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NOT NULL',
    [tables],
  );
  let count = 0;
  await client.query('BEGIN');
  for (const { name } of rows) count += (await client.query(`DELETE FROM ${name}`)).rowCount ?? 0;
  await client.query('COMMIT');
  return count;
}
