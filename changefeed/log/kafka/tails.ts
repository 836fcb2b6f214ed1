import type Cluster from 'kafkajs/src/cluster/index.js';
import { START } from '../../position.ts';
import type { Position } from '../../types.ts';
import { type Ends, numbers, readEnds } from './ends.ts';
import { fetchOnce } from './fetch.ts';
import { fromMessage } from './records.ts';

/**
 * How far the search for the last position begins before the end. A writer that was paused and woke may have appended
 * again what was there already, so the last record need not be the furthest.
 */
const window = 32n;

/** The furthest position near the end of each partition; '' where it has none. */
export async function readTails(cluster: Cluster, topic: string, partitions: number): Promise<Position[]> {
  const ends = await readEnds(cluster, topic, partitions);
  const tails = new Array<Position>(partitions).fill(START);
  const leaders = cluster.findLeaderForPartitions(topic, numbers(partitions));
  await Promise.all(
    Object.entries(leaders).map(async ([nodeId, led]) => {
      for (const partition of led) {
        const end = ends[partition];
        if (end !== undefined) tails[partition] = await readTail(cluster, topic, nodeId, partition, end);
      }
    }),
  );
  return tails;
}

async function readTail(
  cluster: Cluster,
  topic: string,
  nodeId: string,
  partition: number,
  { low, high }: Ends,
): Promise<Position> {
  // Nothing but transaction markers may lie at the end: then the search goes on further back.
  for (let back = window, until = high; until > low; back *= 8n) {
    const from = until - back > low ? until - back : low;
    const position = await furthest(cluster, topic, nodeId, partition, from, until);
    if (position !== START) return position;
    until = from;
  }
  return START;
}

async function furthest(
  cluster: Cluster,
  topic: string,
  nodeId: string,
  partition: number,
  from: bigint,
  until: bigint,
): Promise<Position> {
  let position = START;
  for (let offset = from; offset < until; ) {
    const [fetched] = await fetchOnce(cluster, topic, nodeId, [{ partition, offset }], 500);
    if (fetched === undefined) throw new Error(`no broker answers for partition ${partition} at ${offset}`);
    for (const message of fetched.messages) {
      const record = fromMessage(partition, message);
      if (record !== undefined && record.position > position) position = record.position;
    }
    offset = fetched.next;
  }
  return position;
}
