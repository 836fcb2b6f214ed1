import { parseChange } from '../../changefeed/change.ts';
import { openLogReader } from '../../changefeed/log/index.ts';
import { silentLogger } from '../../runtime/log.ts';
import { type Cluster, partitions } from './cluster.ts';
import type { Logged, Told } from './history.ts';
import { bucket, ledgerBucket, type Value } from './resources.ts';

/** Reads what a run has left behind. */

const idOf = (value: unknown) => (value as Value | null)?.id ?? null;

/** Every change of the bucket that the log holds, by partition. */
export async function readLog({ config }: Cluster): Promise<Logged[][]> {
  const reader = await openLogReader(config, silentLogger());
  try {
    const log: Logged[][] = Array.from({ length: partitions }, () => []);
    const reading = await reader.readAll(1_000_000, (batch) => {
      for (const change of batch.records.map((record) => parseChange(record))) {
        if (change.bucket !== bucket) continue;
        const { partition, position, key, op, value, previous, index, count } = change;
        log[partition]?.push({
          partition,
          position,
          key,
          op,
          id: idOf(value),
          previous: idOf(previous),
          index,
          count,
        });
      }
    });
    await reading.stop();
    return log;
  } finally {
    await reader.close();
  }
}

export async function readStore({ kv }: Cluster): Promise<Record<string, string>> {
  const { objects } = await kv.find<Value>(bucket, '(owner=*)', { noLimit: true });
  return Object.fromEntries(objects.map(({ key, value }) => [key, value.id]));
}

/** What the consumers' ledger holds, by partition, in the order of its entries. */
export async function readApplied({ kv }: Cluster): Promise<Told[][]> {
  const { objects } = await kv.find<{ partition: number; told: Told[] }>(ledgerBucket, '(kind=entry)', {
    noLimit: true,
  });
  const applied: Told[][] = Array.from({ length: partitions }, () => []);
  // Effects of a partition are committed one after the other, so their numbers say in which order.
  for (const { value, _id: effect } of objects.toSorted((a, b) => a._id - b._id)) {
    applied[value.partition]?.push(...value.told.map((told) => ({ ...told, effect })));
  }
  return applied;
}
