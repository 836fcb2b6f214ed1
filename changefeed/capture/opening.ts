import { epochOf, FIRST_EPOCH, formatPosition } from '../position.ts';
import type { LogRecord, Position } from '../types.ts';

/** The bucket that an opening record names. There is no such bucket in the KV tier. */
export const epochsBucket = 'conger_epochs';

/**
 * What opens an epoch in the log: one record in each partition that has nothing of the epoch yet, before every change
 * of it. An epoch after the first one follows a gap, and its opening tells every reader so, also where no change comes.
 * `tails` are the last positions of the partitions.
 */
export function openings(epoch: number, tails: readonly Position[]): LogRecord[] {
  if (epoch === FIRST_EPOCH) return [];
  const body = {
    v: 1,
    bucket: epochsBucket,
    key: String(epoch),
    op: 'put',
    etag: null,
    request_id: null,
    traceparent: null,
    value: { epoch },
    previous: null,
  };
  return tails.flatMap((tail, partition) => {
    if (tail !== '' && epochOf(tail) >= epoch) return [];
    const position = formatPosition({ epoch, lsn: 0n, index: 0 });
    return {
      position,
      partition,
      partitionKey: epochsBucket,
      // Older than any transaction: every snapshot has it.
      xid: '0',
      index: 0,
      count: 1,
      last: 0,
      time: Date.now(),
      body: Buffer.from(JSON.stringify(body)),
    };
  });
}
