import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { expect } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { type ReplicatedPostgres, startReplicatedPostgres } from '../../test/fixtures/replicated-postgres.ts';
import { Seen } from '../testing/records.ts';
import type { LogReader, LogWriter } from '../types.ts';
import { CHANGE_PREFIX } from './assembler.ts';
import { Capture } from './capture.ts';

export const partitions = 4;
const writers = 4;

export interface LogOnReplicas {
  writer(postgres: string): Promise<LogWriter>;
  reader(postgres: string): Promise<LogReader>;
}

/** Writes changes one after the other, each with a row, until `stop`; answers those that were acknowledged. */
async function write(postgres: ReplicatedPostgres, writer: number, stop: AbortSignal): Promise<string[]> {
  const acknowledged: string[] = [];
  let client: pg.Client | undefined;
  for (let n = 0; !stop.aborted; n++) {
    const body = JSON.stringify({ writer, n });
    try {
      if (client === undefined) {
        client = new pg.Client(postgres.primary().url);
        client.on('error', () => {});
        await client.connect();
      }
      await client.query(
        `WITH row AS (INSERT INTO written VALUES (${writer}, ${n}))
         SELECT pg_logical_emit_message(true, '${CHANGE_PREFIX}writer-${writer}', '${body}')`,
      );
      acknowledged.push(body);
    } catch {
      await client?.end().catch(() => {});
      client = undefined;
      await sleep(50);
    }
  }
  await client?.end();
  return acknowledged;
}

/**
 * Lets writers work while the primary is killed and its standby promoted, twice, and checks that the log then is exactly
 * what the store has, at positions that only increased.
 */
export async function surviveFailovers(log: LogOnReplicas): Promise<void> {
  const postgres = await startReplicatedPostgres({ failoverSlots: true });
  const capture = new Capture({
    postgres: postgres.url,
    slot: 'conger',
    partitions,
    openWriter: () => log.writer(postgres.url),
    log: silentLogger(),
  });
  let reader: LogReader | undefined;
  try {
    await capture.start();
    reader = await log.reader(postgres.url);
    await surviveWith(postgres, capture, reader);
  } finally {
    await reader?.close();
    await capture.stop();
    await postgres.stop();
  }
}

async function surviveWith(postgres: ReplicatedPostgres, capture: Capture, reader: LogReader): Promise<void> {
  await postgres.primary().query('CREATE TABLE written (writer int, n int, PRIMARY KEY (writer, n))');
  await postgres.primary().query('GRANT ALL ON written TO conger');
  const seen = new Seen();
  await reader.readAll(1e6, seen.take);
  const stop = new AbortController();
  const writing = Array.from({ length: writers }, (_, writer) => write(postgres, writer, stop.signal));
  try {
    for (let failover = 0; failover < 2; failover++) {
      if (postgres.standby() === undefined) await postgres.addStandby();
      await postgres.untilSynchronised('conger');
      const before = seen.count;
      await seen.until(() => seen.count > before + 200);
      await postgres.killPrimary();
      const killed = seen.count;
      await postgres.promoteStandby();
      await seen.until(() => seen.count > killed + 200);
    }
  } finally {
    stop.abort();
  }
  const acknowledged = (await Promise.all(writing)).flat();
  const rows = await postgres.primary().query('SELECT writer, n FROM written ORDER BY writer, n');
  await seen.until(() => seen.count >= rows.length);

  const got = [...seen.byPartition.values()].flat();
  const bodies = Array.from({ length: writers }, (_, writer) =>
    got.filter((one) => one.partitionKey === `writer-${writer}`).map((one) => one.body.toString()),
  ).flat();
  // Everything once, in order; and the log is exactly what the store has.
  expect(bodies).toEqual(rows.map((row) => JSON.stringify(row)));
  expect(acknowledged.filter((body) => !bodies.includes(body))).toEqual([]);
  for (let partition = 0; partition < partitions; partition++) {
    const positions = seen.positions(partition);
    expect(positions).toEqual([...new Set(positions)].sort());
  }
  expect(capture.status.epoch).toBe(1);
}
