import { expect, test } from 'vitest';
import { record } from '../../testing/records.ts';
import { encodeRecord, kafkajsRecord, type RecordFields } from './record-encoder.ts';
import { toMessage } from './records.ts';

function same(fields: RecordFields): void {
  expect(encodeRecord(fields).buffer.toString('hex')).toBe(kafkajsRecord(fields).buffer.toString('hex'));
}

test('records are encoded as kafkajs encodes them, byte for byte', () => {
  const lengths = [0, 1, 63, 64, 65, 127, 128, 8191, 8192, 100_000];
  for (const length of lengths) {
    for (const offsetDelta of [0, 1, 63, 64, 4_999]) {
      const value = Buffer.alloc(length, 'ü');
      const { key, headers } = toMessage(record(length + 1, 3));
      same({ key: key ?? null, value, headers: headers ?? {}, offsetDelta, timestampDelta: 0 });
      same({ key: 'ß'.repeat(length), value: 'x'.repeat(length), offsetDelta });
    }
  }
  for (const timestampDelta of [0, 1, -1, -64, -65, 2 ** 31, 1_700_000_000_000]) {
    same({ key: null, value: null, timestampDelta, headers: {} });
    same({ key: Buffer.from('k'), value: 'v', timestampDelta, headers: { a: Buffer.from([0, 255]), b: '' } });
  }
  same({ value: 'v', headers: { many: ['a', 'b'] } });
});
