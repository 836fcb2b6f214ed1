import { describe, expect, test } from 'vitest';
import { type ObjectRow, objectJson, objectOf } from './rows.ts';

const awkward = [
  ...[
    '',
    'plain',
    '"quoted"',
    'back\\slash',
    "it's",
    'größe – 日本語 𝄞',
    '\u0000\u001f\u007f',
    '\u2028\u2029',
  ],
  ...['\ud800', 'a\udc00b', '\udc00\ud800', '__proto__', '</script>', '\ufeff', '\uffff'],
];

function row(key: string, value: string, etag = 'AAAAAAAA'): ObjectRow {
  return [key, value, etag, '42', '1700000000000', null];
}

describe('the JSON of a row is that of its object', () => {
  test.each(awkward)('a key, a bucket, an etag, a field and a value %j', (text) => {
    const value = JSON.stringify({ [text]: text, [`${text}2`]: [text, { [text]: null }] });
    for (const count of [null, 0, 12]) {
      const stored = row(text, value, text);
      expect(objectJson(text, stored, count)).toBe(JSON.stringify(objectOf(text, stored, count)));
    }
  });

  test.each<[string, unknown]>([
    ['nothing', {}],
    ['numbers', [0, -0, 1.5, 1e21, 5e-324, 2 ** 53, Number.MAX_VALUE, Number.NaN, Number.POSITIVE_INFINITY]],
    ['a prototype that is a field', JSON.parse('{"__proto__":{"a":1},"constructor":2,"toJSON":3}')],
    ['depth', JSON.parse(`${'{"a":['.repeat(500)}${']}'.repeat(500)}`)],
    ['what JSON leaves out', { a: undefined, b: [undefined], c: new Date(0) }],
  ])('%s', (_what, value) => {
    const stored = row('key', JSON.stringify(value));
    expect(objectJson('bucket', stored, 1)).toBe(JSON.stringify(objectOf('bucket', stored, 1)));
  });

  test.each(['9007199254740992', '9223372036854775807', null])('an _id of %s is refused', (id) => {
    const stored = ['k', '{}', 'E', id, '1', '7'] as ObjectRow;
    for (const read of [objectJson, objectOf]) {
      expect(() => read('b', stored, null)).toThrow(`b::k has an invalid _id: ${id}`);
    }
  });

  test('numbers are read as the same', () => {
    const stored: ObjectRow = ['k', '{}', 'E', '9007199254740991', '9223372036854775807', '7'];
    expect(JSON.parse(objectJson('b', stored, null))).toEqual(objectOf('b', stored, null));
  });

  test('without a count there is no field for one', () => {
    const stored = row('key', '{"a":1}');
    const object = { ...objectOf('bucket', stored, null), _count: undefined };
    expect(objectJson('bucket', stored, undefined)).toBe(JSON.stringify(object));
  });

  test('the value passes as it is, with escapes and spaces that JSON.stringify would not make', () => {
    const value = '{ "a" : "\\u0041\\/", "b": 1.0e2 }';
    expect(objectJson('b', row('k', value), null)).toContain(`"value":${value},`);
  });
});
