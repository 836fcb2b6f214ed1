import { readFileSync } from 'node:fs';
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

/** Bodies as the store of version 0.1.0 wrote them; the file is never changed, and a new version gets one of its own. */
const golden = readFileSync(new URL('golden/change-v1.jsonl', import.meta.url), 'utf8')
  .trim()
  .split('\n');

test('bodies that were written before are read', () => {
  const [created, updated, deleted, bare] = golden.map((line) => parseChange(record(line)));
  const first = {
    owner_uuid: 'o1',
    alias: 'grün "x" \\ \u0001 😀',
    n: 1.5e300,
    list: [null, true],
    deep: { empty: {} },
  };
  const cause = {
    requestId: '4a1f0bde-6a0b-4d61-9d7e-0a4a2a8f7f10',
    traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',
  };
  const vm = { v: 1, bucket: 'vms', key: 'vm1' };
  expect(created).toMatchObject({
    ...vm,
    ...cause,
    op: 'put',
    etag: '8CFE0E08',
    value: first,
    previous: null,
  });
  const second = { owner_uuid: 'o1', alias: null };
  expect(updated).toMatchObject({
    ...vm,
    ...cause,
    op: 'put',
    etag: '918F6252',
    value: second,
    previous: first,
  });
  expect(deleted).toMatchObject({ ...vm, op: 'delete', etag: null, value: null, previous: second });
  expect(deleted).toMatchObject({ requestId: null, traceparent: null });
  expect(bare).toMatchObject({ v: 1, bucket: 'vms', key: 'vm 2/ü', op: 'put', etag: 'A3A6BF43', value: {} });
});

test('fields that a later version adds, at any level, change nothing', () => {
  for (const line of golden) {
    const now = JSON.parse(line) as Record<string, unknown>;
    const later = { cause: { hook: 'x', depth: [1, { y: null }] }, ...now, shard: 3, previous_etag: 'E' };
    expect(parseChange(record(later))).toEqual(parseChange(record(line)));
    const value = { ...(now.value as object), added: { by: 'a later version', list: [{}] } };
    if (now.value !== null) expect(parseChange(record({ ...now, value })).value).toEqual(value);
  }
});

test('what a later version means by other words is refused, not guessed at', () => {
  const now = JSON.parse(golden[0] ?? '') as object;
  const error = (json: object) => {
    try {
      parseChange(record(json));
    } catch (error) {
      if (error instanceof UnreadableChangeError) return error;
    }
    throw new Error('it was read');
  };
  expect(error({ ...now, op: 'merge' })).toMatchObject({ newer: false, bucket: 'vms' });
  expect(error({ ...now, v: 2, op: 'merge' })).toMatchObject({ newer: true });
  expect(error({ v: 2 })).toMatchObject({ newer: true });
  expect(error({ ...now, etag: 7 })).toMatchObject({ newer: false, bucket: 'vms' });
});
