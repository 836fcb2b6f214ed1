import { formatPosition } from '../position.ts';
import type { LogBatch, LogRecord } from '../types.ts';
import { Watched } from './until.ts';

/** A record whose position and body follow from `n`; greater `n` is later. */
export function record(
  n: number,
  partition: number,
  body = `{"n":${n},"text":"grün \\u0000 'x'"}`,
): LogRecord {
  return {
    position: formatPosition({ epoch: 1, lsn: BigInt(n) * 16n, index: n % 3 }),
    partition,
    partitionKey: `owner-${partition}`,
    xid: String(2n ** 33n + BigInt(n)),
    index: n % 3,
    count: 3,
    time: 1_700_000_000_000 + n,
    body: Buffer.from(body),
  };
}

/** What one transaction has in a partition, as number `n`: `count` records, and `others` of other partitions between. */
export function transaction(n: number, partition: number, count: number, others = 1): LogRecord[] {
  const stride = 1 + others;
  return Array.from({ length: count }, (_, i) => ({
    ...record(n, partition, `{"n":${i}}`),
    position: formatPosition({ epoch: 1, lsn: BigInt(n) * 16n, index: i * stride }),
    index: i * stride,
    count: count * stride,
    last: (count - 1) * stride,
  }));
}

/** `count` records from number `first` on, over the partitions in turn. */
export function records(first: number, count: number, partitions: number): LogRecord[] {
  return Array.from({ length: count }, (_, i) => record(first + i, (first + i) % partitions));
}

/** What a reader was given, by partition, in the order in which it came. */
export class Seen extends Watched {
  readonly byPartition = new Map<number, LogRecord[]>();
  /** How many records each batch had, by partition. */
  readonly sizes = new Map<number, number[]>();

  /** Takes a batch in; throws where the batch itself is not what it says. */
  readonly take = (batch: LogBatch): void => {
    if (batch.records.length === 0) throw new Error('an empty batch');
    const seen = this.byPartition.get(batch.partition) ?? [];
    this.byPartition.set(batch.partition, seen);
    for (const one of batch.records) {
      if (one.partition !== batch.partition) throw new Error('a record of another partition');
      seen.push(one);
    }
    if (batch.cursor.position !== seen.at(-1)?.position)
      throw new Error('the cursor is not behind the last record');
    this.sizes.set(batch.partition, [...(this.sizes.get(batch.partition) ?? []), batch.records.length]);
    this.changed();
  };

  get count(): number {
    return [...this.byPartition.values()].reduce((sum, seen) => sum + seen.length, 0);
  }

  positions(partition: number): string[] {
    return (this.byPartition.get(partition) ?? []).map((one) => one.position);
  }
}
