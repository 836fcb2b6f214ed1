import type { Message } from 'kafkajs';
import type { FetchedMessage } from 'kafkajs/src/cluster/index.js';
import { isPosition } from '../../position.ts';
import type { LogRecord } from '../../types.ts';

/** No writer that was taken over appends more records than this once it wakes: one request. */
export const repeatable = 2_000n;

/**
 * A change in Kafka: the key is its partition key, the value its body, and the rest is in headers. The commit time is a
 * header too, as the broker overwrites a record's timestamp with the time of arrival (topic.ts).
 */
export function toMessage(record: LogRecord): Message {
  return {
    key: record.partitionKey,
    value: record.body,
    partition: record.partition,
    headers: {
      position: record.position,
      xid: record.xid,
      idx: String(record.index),
      cnt: String(record.count),
      // Where it is the last of all, index and count say so.
      ...(record.last === undefined || record.index === record.count - 1
        ? {}
        : { last: String(record.last) }),
      time: String(record.time),
    },
  };
}

/** What a record takes in a request, within a few bytes. */
export function sizeOf(record: LogRecord): number {
  return record.body.length + record.partitionKey.length + 160;
}

/** The record in a message; undefined where somebody else has written it. */
export function fromMessage(partition: number, message: FetchedMessage): LogRecord | undefined {
  const { headers, key, value } = message;
  const position = header(headers.position);
  const xid = header(headers.xid);
  const index = natural(headers.idx);
  const count = natural(headers.cnt);
  const last = natural(headers.last);
  const time = natural(headers.time);
  if (value === null || !isPosition(position) || !/^\d+$/.test(xid)) return undefined;
  if (index === undefined || count === undefined || time === undefined) return undefined;
  const partitionKey = key === null ? '' : key.toString('utf8');
  const record = { position, partition, partitionKey, xid, index, count, time, body: value };
  return last === undefined ? record : { ...record, last };
}

function header(value: FetchedMessage['headers'][string]): string {
  return Buffer.isBuffer(value) ? value.toString('latin1') : '';
}

function natural(value: FetchedMessage['headers'][string]): number | undefined {
  const text = header(value);
  const number = Number(text);
  return text !== '' && Number.isSafeInteger(number) && number >= 0 ? number : undefined;
}
