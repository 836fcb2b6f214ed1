import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { partitionOf } from '../../change.ts';
import { ensureLedger, entriesBucket, readLedger, spawnMember, untilStopped } from '../../testing/ledger.ts';
import { type Road, startRoad } from '../../testing/road.ts';
import { MEMBER_NAME } from './pulse.ts';

const partitions = 4;
/** The promise is 6 s and what a takeover takes; many times that on a machine that is overloaded. */
const MOVED_MS = 30_000;
/** One key of each partition. */
const keys = Array.from({ length: partitions }, (_, partition) => {
  let n = 0;
  while (partitionOf(`key${n}`, partitions) !== partition) n++;
  return `key${n}`;
});
let road: Road;

beforeAll(async () => {
  road = await startRoad(partitions);
  await ensureLedger(road.kv);
});

afterAll(() => road?.close());

/** Who has applied what of which partition, behind the first `from` entries. */
async function holders(from = 0): Promise<Map<number, string>> {
  const entries = await readLedger(road.kv);
  return new Map(entries.slice(from).map(({ partition, member }) => [partition, member]));
}

/** Resolves once two members have half of the partitions each: until then the first may have all of them. */
async function untilShared(): Promise<void> {
  const client = new pg.Client(road.postgres);
  await client.connect();
  try {
    await until(async () => {
      const { rows } = await client.query<{ claims: number }>(
        `SELECT count(*)::int AS claims FROM pg_locks JOIN pg_stat_activity USING (pid)
          WHERE locktype = 'advisory' AND application_name = $1 GROUP BY pid`,
        [MEMBER_NAME],
      );
      return rows.length === 2 && rows.every(({ claims }) => claims === partitions / 2);
    });
  } finally {
    await client.end();
  }
}

async function end(child: ChildProcess): Promise<void> {
  child.kill('SIGTERM');
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await sleep(20);
}

test('the partitions of a member that is stopped go to the others, and it has no effect when it wakes', {
  timeout: 240_000,
}, async () => {
  const link = await road.link();
  const spawn = (name: string, failpoints = '') =>
    spawnMember({
      CONGER_POSTGRES: link.postgres,
      CONGER_KVSTORE: link.kvstore,
      CONGER_PARTITIONS: String(partitions),
      CONGER_INSTANCE: name,
      CONGER_FAILPOINTS: failpoints,
    });
  // It stops itself with an effect and a place in hand that are about to be committed.
  const [zombie, other] = await Promise.all([
    spawn('zombie', 'checkpoint.commit.before=stop@40'),
    spawn('other'),
  ]);
  await untilShared();
  let written = 0;
  let writing = true;
  const load = (async () => {
    while (writing) {
      await Promise.all(keys.map((key) => road.kv.put(entriesBucket, key, { n: ++written })));
      await sleep(20);
    }
  })();
  try {
    await untilStopped(zombie);
    const stopped = performance.now();
    const had = await holders();
    expect([...had.values()].filter((member) => member === 'zombie')).toHaveLength(2);
    const before = (await readLedger(road.kv)).length;
    await until(async () => {
      const now = await holders(before);
      return now.size === partitions && [...now.values()].every((member) => member === 'other');
    });
    const took = performance.now() - stopped;
    console.info(`the partitions of a stopped member moved after ${Math.round(took)} ms`);
    expect(took).toBeLessThan(MOVED_MS);

    const awake = (await readLedger(road.kv)).length;
    zombie.kill('SIGCONT');
    // It goes on, learns what it has lost, and gets its share again.
    await until(async () => [...(await holders(awake)).values()].includes('zombie'));
    writing = false;
    await load;
    await until(async () => (await readLedger(road.kv)).flatMap((one) => one.positions).length >= written);
    const ledger = await readLedger(road.kv);
    for (let partition = 0; partition < partitions; partition++) {
      const applied = ledger.filter((one) => one.partition === partition).flatMap((one) => one.positions);
      expect(applied).toHaveLength(written / partitions);
      expect(applied).toEqual([...new Set(applied)].toSorted());
    }
  } finally {
    writing = false;
    await load.catch(() => undefined);
    zombie.kill('SIGCONT');
    await Promise.all([zombie, other].map(end));
    await link.close();
  }
});
