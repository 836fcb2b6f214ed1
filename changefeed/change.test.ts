import { expect, test } from 'vitest';
import { fnv1a32, parseChange, partitionOf, UnreadableChangeError } from './change.ts';
import type { LogRecord } from './types.ts';

const body = {
  v: 1,
  bucket: 'vms',
  key: 'a',
  op: 'put',
  etag: 'e1',
  request_id: 'r',
  traceparent: null,
  value: { state: 'running' },
  previous: null,
};

function record(json: unknown): LogRecord {
  return {
    position: '00000001-0000000000000010-00000000',
    partition: 3,
    partitionKey: 'owner',
    xid: '4294967297',
    index: 0,
    count: 1,
    time: 5,
    body: Buffer.from(typeof json === 'string' ? json : JSON.stringify(json)),
  };
}

test('a body becomes a change with its record’s stamps', () => {
  expect(parseChange(record(body))).toEqual({
    v: 1,
    position: '00000001-0000000000000010-00000000',
    partition: 3,
    partitionKey: 'owner',
    xid: '4294967297',
    index: 0,
    count: 1,
    time: 5,
    bucket: 'vms',
    key: 'a',
    op: 'put',
    etag: 'e1',
    value: { state: 'running' },
    previous: null,
    requestId: 'r',
    traceparent: null,
  });
});

test('fields that a newer writer added are ignored', () => {
  expect(parseChange(record({ ...body, tenant: 'x' }))).not.toHaveProperty('tenant');
});

test('a newer version is refused by its number', () => {
  expect(() => parseChange(record({ ...body, v: 2, op: 'merge' }))).toThrow(/version 2.*up to 1/);
});

test('what is no change is refused with its position', () => {
  for (const bad of [
    '',
    '{',
    'null',
    '[]',
    '"x"',
    { ...body, op: 'patch' },
    { ...body, bucket: 7 },
    { ...body, v: 0 },
  ]) {
    expect(() => parseChange(record(bad))).toThrow(UnreadableChangeError);
    expect(() => parseChange(record(bad))).toThrow(/00000001-0000000000000010-00000000/);
  }
});

test('partitions follow FNV-1a over UTF-8', () => {
  expect(fnv1a32('')).toBe(0x811c9dc5);
  expect(fnv1a32('a')).toBe(0xe40c292c);
  expect(fnv1a32('foobar')).toBe(0xbf9cf968);
  expect(partitionOf('foobar', 8)).toBe(0xbf9cf968 % 8);
  expect(partitionOf('ü', 1)).toBe(0);
});
