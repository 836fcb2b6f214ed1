import type { FetchedMessage } from 'kafkajs/src/cluster/index.js';
import { START } from '../../position.ts';
import type { Position } from '../../types.ts';
import { fromMessage } from './records.ts';

/**
 * An offset means nothing in a topic that was deleted and made again. So who has read up to `position`, goes on at `next`,
 * and cannot be certain that it is the same topic, begins here: at the last record that was read.
 */
export function doubtfulFrom(next: bigint, position: Position): bigint {
  return position === START || next === 0n ? next : next - 1n;
}

/** Whether what was fetched from there shows another topic: the record before `next` is of a later position. */
export function isAnotherTopic(
  messages: readonly FetchedMessage[],
  partition: number,
  next: bigint,
  position: Position,
): boolean {
  if (position === START) return false;
  const before = messages.find(({ offset }) => BigInt(offset) === next - 1n);
  const record = before && fromMessage(partition, before);
  return record !== undefined && record.position > position;
}
