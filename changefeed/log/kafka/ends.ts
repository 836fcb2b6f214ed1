import type Cluster from 'kafkajs/src/cluster/index.js';

/** The offsets that a partition holds: from `low` up to, not including, `high`. */
export interface Ends {
  readonly low: bigint;
  readonly high: bigint;
}

/** The ends of each partition, by its number. */
export async function readEnds(cluster: Cluster, topic: string, partitions: number): Promise<Ends[]> {
  const [low, high] = await Promise.all([
    readOffsets(cluster, topic, numbers(partitions), true),
    readOffsets(cluster, topic, numbers(partitions), false),
  ]);
  return numbers(partitions).map((partition) => ({
    low: offsetOf(low, partition),
    high: offsetOf(high, partition),
  }));
}

export function numbers(partitions: number): number[] {
  return Array.from({ length: partitions }, (_, partition) => partition);
}

async function readOffsets(
  cluster: Cluster,
  topic: string,
  partitions: readonly number[],
  fromBeginning: boolean,
): Promise<Map<number, bigint>> {
  const answers = await cluster.fetchTopicsOffset([
    { topic, fromBeginning, partitions: partitions.map((partition) => ({ partition })) },
  ]);
  const offsets = answers.find((answer) => answer.topic === topic)?.partitions ?? [];
  return new Map(offsets.map(({ partition, offset }) => [partition, BigInt(offset)]));
}

function offsetOf(offsets: ReadonlyMap<number, bigint>, partition: number): bigint {
  const offset = offsets.get(partition);
  if (offset === undefined) throw new Error(`no broker answers for partition ${partition}`);
  return offset;
}
