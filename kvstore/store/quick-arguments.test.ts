import { describe, expect, test } from 'vitest';
import { argument } from './arguments.ts';
import { quick } from './quick-arguments.ts';

const uuid = '3a5c67a4-28af-43a0-8bca-171cdf3d6b14';
/** What a field may hold: right for some, nearly right for others. */
const values: readonly unknown[] = [
  ...[null, true, false, 0, -0, 1, -1, 0.5, 2 ** 53, 1e300, '', '0', '12', '-1', 'x', 'ASC', 'desc', 'put'],
  ...['delete', 'update', 'deleteMany', uuid, uuid.toUpperCase(), `${uuid}\n`, ` ${uuid}`, uuid.slice(1)],
  ...['0'.repeat(64), '0'.repeat(65), 'ü'.repeat(33), [], {}, [{}], [''], { a: 1 }, [{ attribute: 'a' }]],
  ...[{ attribute: 'a', order: 'ASC' }, { order: 'up' }, { sendHandledOptions: true }, { length: 0 }],
  ...[{ sendHandledOptions: 1 }, { etag: null }, { etag: 1 }, { req_id: uuid, limit: 1 }, { limit: '1x' }],
];
const optionNames = Object.keys(argument.options.schema.shape);
const requestNames = Object.keys(argument.requests.schema.element.shape);

/** The promise: what is taken quickly is what the schema takes, and passes on unchanged. Answers whether it was. */
function kept(kind: keyof typeof quick, value: unknown): boolean {
  if (!quick[kind](value)) return false;
  const parsed = argument[kind].schema.safeParse(value);
  expect(parsed, `${kind} ${JSON.stringify(value)}`).toMatchObject({ success: true });
  expect(parsed.data).toStrictEqual(value);
  return true;
}

describe('what is taken quickly is what the schema takes', () => {
  test.each(Object.keys(quick) as (keyof typeof quick)[])('a value by itself: %s', (kind) => {
    expect(values.filter((value) => kept(kind, value)).length).toBeGreaterThan(0);
    expect(values.filter((value) => !quick[kind](value)).length).toBeGreaterThan(0);
  });

  test.each([...optionNames, 'unknown'])('each value of the option %s', (name) => {
    for (const value of values) kept('options', { req_id: uuid, [name]: value });
  });

  test.each([...requestNames, 'unknown'])('each value of the field %s of a request', (name) => {
    for (const value of values) {
      kept('requests', [
        { bucket: 'b', key: 'k' },
        { bucket: 'b', [name]: value },
      ]);
      kept('requests', [{ [name]: value }]);
    }
  });

  test('every option of a request', () => {
    for (const name of optionNames) {
      for (const value of values) kept('requests', [{ bucket: 'b', options: { [name]: value } }]);
    }
  });
});

test('what clients send is taken quickly', () => {
  const options = { req_id: uuid, headers: {}, no_count: false, sql_only: false, noCache: true };
  expect(kept('options', { ...options, etag: 'AAAAAAAA', _value: '{}' })).toBe(true);
  expect(
    kept('options', { ...options, etag: null, traceparent: `00-${'0'.repeat(32)}-${'1'.repeat(16)}-01` }),
  ).toBe(true);
  expect(kept('options', { ...options, limit: 100, offset: 0, noLimit: false })).toBe(true);
  const put = {
    bucket: 'b',
    key: 'k',
    operation: 'put',
    value: { a: 1 },
    options: { etag: null },
    _value: '{"a":1}',
  };
  const many = { bucket: 'b', operation: 'update', fields: { a: 1 }, filter: '(a=1)' };
  expect(kept('requests', [put, many, { bucket: 'b', key: 'k', operation: 'delete' }])).toBe(true);
});
