import { describe, expect, test } from 'vitest';
import type { IndexType } from '../types.ts';
import { crc32, etagOf } from './etag.ts';
import { partOf } from './identifiers.ts';
import { indexTypeInfo } from './index-types.ts';
import { encodeField, TypeMismatch } from './values.ts';

function encode(type: IndexType, value: unknown) {
  return encodeField(indexTypeInfo(type), value);
}

test.each<[IndexType, unknown, string | null, unknown]>([
  ['string', 5, '5', '5'],
  ['string', ['a', 'b'], 'a,b', ['a', 'b']],
  ['string', null, null, null],
  ['number', '5', '5', 5],
  ['number', ['4'], '4', ['4']],
  ['number', 'none', null, null],
  ['number', 1e21, '1e+21', 1e21],
  ['boolean', 'TRUE', 'true', true],
  ['date', '2015-10-21T07:28:00Z', '2015-10-21T07:28:00.000Z', '2015-10-21T07:28:00.000Z'],
  ['mac', 'A:B-C:D:E:F'.replace('-', ':'), '0a:0b:0c:0d:0e:0f', '0a:0b:0c:0d:0e:0f'],
  ['mac', 0x0a0b0c0d0e0f, '0a:0b:0c:0d:0e:0f', '0a:0b:0c:0d:0e:0f'],
  ['ip', 'FD00:0:0::1', 'fd00::1', 'fd00::1'],
  ['ip', '::FFFF:102:304', '::ffff:1.2.3.4', '::ffff:1.2.3.4'],
  ['subnet', '::ffff:172.16.3.4/112', '::ffff:172.16.0.0/112', '::ffff:172.16.0.0/112'],
  ['subnet', '10.1.2.3/8', '10.0.0.0/8', '10.0.0.0/8'],
  ['subnet', 'fd00::1/64', 'fd00::/64', 'fd00::/64'],
  ['numrange', '[1,2.5)', '[1,2.5)', '[1,2.5)'],
  ['daterange', '[2015-10-21T07:28:00Z,)', '[2015-10-21T07:28:00.000Z,)', '[2015-10-21T07:28:00.000Z,)'],
  [
    '[string]',
    ['a"b', 'c\\d', 'NULL', '', 'e,f}'],
    '{"a\\"b","c\\\\d","NULL","","e,f}"}',
    ['a"b', 'c\\d', 'NULL', '', 'e,f}'],
  ],
  ['[string]', 'one', '{"one"}', ['one']],
  ['[number]', ['1', 'x'], '{"1",NULL}', [1, null]],
])('%s takes %j as %s', (type, value, text, json) => {
  expect(encode(type, value)).toEqual({ text, json });
});

describe('refuses, as Moray does', () => {
  test.each<[IndexType, unknown[]]>([
    ['date', ['August 1, 2020', '1970-01-01T00:00:00.000', '1970-01-01', '2020-13-01T00:00:00Z', 0]],
    ['[date]', [[0], ['1970-01-01T00:00:00.000Z', 'Thursday']]],
    ['daterange', ['{,}', '[,foo]', '[foo,]']],
    ['numrange', ['{,}', '[,2.foo]', '[foo,]', 5]],
    ['boolean', ['truef', 'tf', 23]],
    ['ip', ['foo', '1.2.3.4.5', '1.2.3', 'fd00:::1', 'fe80::1%eth0', '0x7f.1', -1, 2 ** 32]],
    ['mac', ['foo', true, 2012543500901123, '33:06:49:0f:4b:3q', '33:006:49:0f:4b:3b', '06:49:0f:4b:3b']],
    ['subnet', ['foo', '1.2.3.0/40', 'fd00::/-20', 'fd00::/150', 'fd00:::/64', '10.0.0.0']],
    ['uuid', ['foo', '5EC78759-bd10-401a-cfc1-dc1e90018abe', '1-5ec78759-bd10-401a-cfc1-dc1e90018abe']],
  ])('%s', (type, values) => {
    for (const value of values)
      expect(() => encode(type, value), JSON.stringify(value)).toThrow(TypeMismatch);
  });
});

test('an etag is the CRC-32 of the text', () => {
  expect(etagOf('123456789')).toBe('CBF43926');
  expect(etagOf('')).toBe('00000000');
});

test('an etag is the same on every version of Node', () => {
  for (const text of [
    '',
    'x',
    'größe – 日本語 𝄞',
    '\ud800',
    '\0',
    JSON.stringify({ a: 'x'.repeat(100_000) }),
  ]) {
    expect(Number.parseInt(etagOf(text), 16)).toBe(crc32(text));
  }
});

test('parts of two buckets never have one name', () => {
  const long = 'b'.repeat(63);
  expect(partOf(long, 'key')).toHaveLength(63);
  expect(partOf(long, 'key')).not.toBe(partOf(long, '_id'));
  expect(partOf('a', 'key')).toBe('a.key');
});
