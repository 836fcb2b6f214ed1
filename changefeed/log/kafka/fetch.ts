import type Cluster from 'kafkajs/src/cluster/index.js';
import type { FetchedMessage, FetchedPartition } from 'kafkajs/src/cluster/index.js';

/** Where to read a partition. */
export interface Wanted {
  readonly partition: number;
  readonly offset: bigint;
}

/** What a fetch found in one partition from `offset` on: `next` is the offset behind the last message. */
export interface Fetched {
  readonly partition: number;
  readonly messages: readonly FetchedMessage[];
  readonly next: bigint;
}

const maxBytes = 8 << 20;
const maxBytesPerPartition = 1 << 20;

/**
 * One fetch from the leader of `wanted`, which answers at once where there is something and else after `maxWaitMs`.
 * Records of open and of aborted transactions are among the messages: what is in the log was committed in PostgreSQL,
 * and readers drop what they had. Transaction markers are not.
 */
export async function fetchOnce(
  cluster: Cluster,
  topic: string,
  nodeId: string,
  wanted: readonly Wanted[],
  maxWaitMs: number,
): Promise<Fetched[]> {
  const broker = await cluster.findBroker({ nodeId });
  const partitions = wanted.map(({ partition, offset }) => ({
    partition,
    fetchOffset: offset.toString(),
    maxBytes: maxBytesPerPartition,
  }));
  const { responses } = await broker.fetch({
    isolationLevel: 0,
    maxWaitTime: maxWaitMs,
    minBytes: 1,
    maxBytes,
    topics: [{ topic, partitions }],
  });
  const offsets = new Map(wanted.map(({ partition, offset }) => [partition, offset]));
  return responses.flatMap((response) => response.partitions.flatMap((found) => trim(found, offsets)));
}

function trim(found: FetchedPartition, offsets: ReadonlyMap<number, bigint>): Fetched[] {
  const { partition, messages } = found;
  const offset = offsets.get(partition);
  const last = messages.at(-1);
  if (offset === undefined || last === undefined) return [];
  const next = BigInt(last.offset) + 1n;
  if (next <= offset) return [];
  // A broker answers with whole batches: the first may begin before what was asked for.
  const from = messages.findIndex((message) => BigInt(message.offset) >= offset);
  const rest = messages.slice(from).filter((message) => !message.isControlRecord);
  return [{ partition, messages: rest, next }];
}
