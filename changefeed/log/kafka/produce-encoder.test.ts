import { createRequire } from 'node:module';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { record } from '../../testing/records.ts';
import { crc32c } from './crc32c.ts';
import {
  kafkajsProduce,
  type ProducedMessage,
  type ProduceFields,
  produceRequest,
} from './produce-encoder.ts';
import { toMessage } from './records.ts';

const kafkajsCrc32c: (bytes: Buffer) => number = createRequire(import.meta.url)(
  'kafkajs/src/protocol/recordBatch/crc32C/crc32C.js',
);

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'], now: 1_700_000_000_123 });
});
afterEach(() => {
  vi.useRealTimers();
});

async function same(
  partitions: readonly (readonly ProducedMessage[])[],
  fields: Partial<ProduceFields> = {},
): Promise<void> {
  const request: ProduceFields = {
    acks: -1,
    timeout: 8_000,
    producerId: '9007199254740993',
    producerEpoch: 7,
    topicData: [
      {
        topic: 'änderungen',
        partitions: partitions.map((messages, partition) => ({
          partition: String(partition),
          firstSequence: 2 ** 31 - 2,
          messages,
        })),
      },
    ],
    ...fields,
  };
  const [ours, theirs] = [await produceRequest(request).encode(), await kafkajsProduce(request).encode()];
  expect(ours.buffer.equals(theirs.buffer)).toBe(true);
}

test('requests are encoded as kafkajs encodes them, byte for byte', async () => {
  const messages = Array.from({ length: 5_000 }, (_, n) => toMessage(record(n, n % 3))) as ProducedMessage[];
  await same([messages, messages.slice(0, 1), messages.slice(7, 107)]);
  for (const length of [0, 1, 63, 64, 65, 127, 128, 8191, 8192, 100_000]) {
    const value = Buffer.alloc(length, 'ü');
    await same([
      [{ key: 'ß'.repeat(length), value: 'x'.repeat(length) }],
      [{ value, headers: { ü: value, a: 'ö' } }],
    ]);
  }
  await same([
    [
      { key: null, value: null },
      { key: Buffer.from([0, 255]), value: '', headers: {} },
    ],
  ]);
  await same([]);
  await same([[{ value: 'x' }]], { producerId: -1, producerEpoch: 0 });
});

test('what is not plain is left to kafkajs', async () => {
  await same([[{ value: 'v', headers: { many: ['a', 'b'] } }]]);
  await same([[{ value: 'v', timestamp: '1700000000999' }, { value: 'w' }]]);
  await same([[{ value: 'v' }]], { transactionalId: 'tx' });
  await same([[{ value: 'v'.repeat(100) }]], { compression: 1 });
});

test('the checksum is CRC-32C', () => {
  expect(crc32c(Buffer.from('123456789'), 0, 9)).toBe(0xe3069283);
  const bytes = Buffer.from(Array.from({ length: 300 }, (_, i) => (i * 7919 + (i >> 3)) & 0xff));
  for (let start = 0; start < 20; start++)
    for (let end = start; end < bytes.length; end++)
      expect(crc32c(bytes, start, end)).toBe(kafkajsCrc32c(bytes.subarray(start, end)));
});
