import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import type { BatchOp } from '../kvstore/types.ts';
import { silentLogger } from '../runtime/log.ts';
import { ensureConsumerBuckets, startConsumer } from './consumer.ts';
import { type Road, startRoad, type TestProcess } from './testing/road.ts';
import type { Change } from './types.ts';

interface Entry {
  readonly owner: string;
  readonly n: number;
}
interface Ledger {
  readonly seen: readonly number[];
}

const partitions = 4;
const owners = Array.from({ length: 10 }, (_, i) => `owner${i}`);
let road: Road;

beforeAll(async () => {
  road = await startRoad(partitions);
  await ensureConsumerBuckets(road.kv);
  await road.kv.ensureBucket('entries', {
    index: { owner: { type: 'string' } },
    options: { version: 1, partition: 'owner' },
  });
  await road.kv.ensureBucket('ledgers', { index: {}, options: { version: 1, feed: false } });
});

afterAll(() => road.close());

/** Joins a process to the group that enters each owner's changes, in order, into the owner's ledger. */
async function join(process: TestProcess, name: string): Promise<{ stop(): Promise<void> }> {
  const { kv, reader } = process;
  const handle = async (changes: readonly Change[]): Promise<BatchOp[]> => {
    const entries = changes.map((change) => change.value as Entry);
    const owners = [...new Set(entries.map((entry) => entry.owner))];
    const ops = owners.map(async (owner): Promise<BatchOp> => {
      const found = await kv.tryGet<Ledger>('ledgers', owner);
      const own = entries.filter((entry) => entry.owner === owner);
      const seen = [...(found?.value.seen ?? []), ...own.map((entry) => entry.n)];
      // Without an etag: that nothing is overwritten rests on the checkpoint alone.
      return { operation: 'put', bucket: 'ledgers', key: owner, value: { seen } };
    });
    const read = await Promise.all(ops);
    // Long enough to lose the partition between read and commit.
    await new Promise((resolve) => setTimeout(resolve, 10));
    return read;
  };
  return startConsumer({
    name: 'ledgers',
    member: name,
    reader,
    kv,
    log: silentLogger(),
    buckets: ['entries'],
    handle,
    maxChanges: 7,
  });
}

test('every change is applied once and in order while members are killed, cut off and replaced', async () => {
  let seed = 7;
  const random = (n: number) => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return seed % n;
  };
  const all: TestProcess[] = [];
  const living: TestProcess[] = [];
  const add = async () => {
    const process = await road.process();
    all.push(process);
    living.push(process);
    await join(process, `member${all.length}`);
  };
  for (let i = 0; i < 3; i++) await add();

  const counts = new Map(owners.map((owner) => [owner, 0]));
  const write = async (owner: string) => {
    const n = (counts.get(owner) ?? 0) + 1;
    counts.set(owner, n);
    await road.kv.put('entries', `${owner}-${n}`, { owner, n });
  };
  for (let round = 0; round < 40; round++) {
    await Promise.all(owners.map(write));
    const victim = living[random(living.length)];
    if (victim === undefined) throw new Error('nobody lives');
    if (round % 8 === 3 || round % 8 === 6) {
      // Dead, or a zombie: out of the group without knowing, and still able to write.
      if (round % 8 === 3) victim.kill();
      else victim.loseLog();
      living.splice(living.indexOf(victim), 1);
      await add();
    } else if (round % 4 === 1) {
      victim.cut();
    }
  }

  await vi.waitFor(
    async () => {
      for (const owner of owners) {
        const ledger = await road.kv.tryGet<Ledger>('ledgers', owner);
        expect(ledger?.value.seen.length).toBeGreaterThanOrEqual(counts.get(owner) ?? 0);
      }
    },
    { timeout: 120_000, interval: 50 },
  );
  for (const owner of owners) {
    const ledger = await road.kv.get<Ledger>('ledgers', owner);
    expect(ledger.value.seen).toEqual(Array.from({ length: counts.get(owner) ?? 0 }, (_, i) => i + 1));
  }
  await Promise.all(all.map((process) => process.close()));
}, 300_000);
