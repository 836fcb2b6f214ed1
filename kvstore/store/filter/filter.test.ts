import { describe, expect, test } from 'vitest';
import { bucketOf } from '../bucket.ts';
import { indexTypeInfo } from '../index-types.ts';
import { formatFilter } from './ast.ts';
import { compileFilter, Parameters, unusableFields } from './compile.ts';
import { matches } from './match.ts';
import { FilterSyntaxError, parseFilter } from './parse.ts';

const bucket = bucketOf({
  name: 'b',
  index: JSON.stringify({
    str: { type: 'string' },
    num: { type: 'number' },
    bool: { type: 'boolean' },
    ip: { type: 'ip' },
    date: { type: 'date' },
    range: { type: 'numrange' },
    strs: { type: '[string]' },
    nums: { type: '[number]' },
    fresh: { type: 'string' },
    mixedCase: { type: 'string' },
  }),
  pre: '[]',
  post: '[]',
  options: '{"version":2}',
  mtime: new Date(),
  reindex_active: '{"2":["fresh"]}',
  generation: '7',
  change: null,
  ended: null,
  extended: false,
});

function compile(text: string) {
  const parameters = new Parameters();
  const { sql, residual } = compileFilter(bucket, parseFilter(text), parameters);
  return { sql, values: parameters.values, residual: residual && formatFilter(residual) };
}

function matching(text: string, object: Record<string, unknown>): boolean {
  return matches(parseFilter(text), object, (name) => bucket.usable.get(name)?.info);
}

describe('parsing', () => {
  test.each([
    ['a=b', '(a=b)'],
    ['(a=*)', '(a=*)'],
    ['(&(a=1)(!(b>=2))(|(c<=3)(d=x*y*z)))', '(&(a=1)(!(b>=2))(|(c<=3)(d=x*y*z)))'],
    ['(&!(a=1)(b=2))', '(&(!(a=1))(b=2))'],
    ['(a=**x**)', '(a=**x**)'],
    ['(a=**)', '(a=**)'],
    ['(a:caseIgnoreMatch:=x:=y)', '(a:caseIgnoreMatch:=x:\\=y)'],
    ['(a:caseIgnoreMatch:=x**)', '(a:caseIgnoreMatch:=x**)'],
    ['(a-b_c=1)', '(a-b_c=1)'],
  ])('%s is %s', (text, canonical) => {
    expect(formatFilter(parseFilter(text))).toBe(canonical);
    expect(parseFilter(canonical)).toEqual(parseFilter(text));
  });

  test.each([
    ['(a=x\\28y\\29)', 'x(y)'],
    ['(a=\\(\\)\\*\\\\\\=)', '()*\\='],
    ['(a=\\2a)', '*'],
    ['(a=\\c3\\a9t\\C3\\A9)', 'été'],
    ['(a=b=c)', 'b=c'],
    ['(a=\u{1f600})', '\u{1f600}'],
  ])('%s has the value %s', (text, value) => {
    expect(parseFilter(text)).toMatchObject({ type: 'equal', value });
  });

  test.each([
    ...[
      '',
      '(',
      ')',
      '()',
      '(a)',
      '(a=1',
      'a=1)',
      '(a=1))',
      '(a=1)(b=2)',
      '(&)',
      '(|)',
      '(!)',
      '(&(a=1)',
      '(=1)',
    ],
    ...[
      '(a=(b)',
      '(a=\\zz)',
      '(a=\\',
      '(a=\\q)',
      '(a=\\ff)',
      '(a=\\00)',
      '(a=\0)',
      '(a b=1)',
      '(a:=',
      '(a:x=1)',
    ],
    `${'(!'.repeat(2000)}(a=1)${')'.repeat(2000)}`,
    `${'(&'.repeat(100_000)}`,
  ])('%# is refused', (text) => {
    expect(() => parseFilter(text)).toThrow(FilterSyntaxError);
  });
});

describe('compiling', () => {
  test('values are parameters, whatever they hold', () => {
    const evil = `'; DROP TABLE kv.b; -- "`;
    expect(compile(`(str=${evil})`)).toEqual({
      sql: '("str" = $1::text AND "str" IS NOT NULL)',
      values: [evil],
      residual: undefined,
    });
  });

  test('columns keep their case, and patterns their characters', () => {
    expect(compile('(mixedCase=a%_\\\\*b)')).toMatchObject({
      sql: '("mixedCase" LIKE $1::text AND "mixedCase" IS NOT NULL)',
      values: ['a\\%\\_\\\\%b'],
    });
  });

  test('numbers that are none equal nothing, and big ones do not overflow', () => {
    expect(compile('(num=abc)').sql).toBe('false');
    expect(compile('(_id>=99999999999999999999)').sql).toContain('numeric');
    expect(compile('(_id>=5)').sql).toContain('bigint');
  });

  test('what has no usable index is left for later', () => {
    expect(compile('(&(str=a)(other=b)(fresh=c))')).toMatchObject({
      sql: '(("str" = $1::text AND "str" IS NOT NULL))',
      residual: '(&(other=b)(fresh=c))',
    });
    expect(compile('(&(num>=1)(!(other=b)))').residual).toBe('(!(other=b))');
  });

  test('a negation of what is only half indexed is not half negated', () => {
    const { sql, residual, values } = compile('(&(!(&(str=a)(other=b)))(num>=1))');
    expect(sql).toBe('(("num" >= $1::numeric AND "num" IS NOT NULL))');
    expect(values).toEqual(['1']);
    expect(residual).toBe('(!(&(str=a)(other=b)))');
  });

  test('an or whose parts are half indexed is filtered whole', () => {
    const { sql, residual } = compile('(|(&(str=a)(other=b))(num=5))');
    expect(sql).toContain(' OR ');
    expect(residual).toBe('(|(&(str=a)(other=b))(num=5))');
  });

  test.each([
    ['(&(x=1)(y=2))', 'NotIndexedError'],
    ['(|(str=1)(y=2))', 'NotIndexedError'],
    ['(strs=a*)', 'NotIndexedError'],
    ['(x:within:=[1,2])', 'NotIndexedError'],
    ['(fresh=1)', 'InvalidQueryError'],
    ['(x=1)', 'InvalidQueryError'],
    ['(str~=a)', 'InvalidQueryError'],
    ['(str:nonsense:=a)', 'InvalidQueryError'],
    ['(bool=maybe)', 'InvalidQueryError'],
    ['(ip=1.2.3)', 'InvalidQueryError'],
    ['(date=1970-01-01)', 'InvalidQueryError'],
    ['(num:within:=5)', 'InvalidQueryError'],
    ['(num:contains:=5)', 'InvalidQueryError'],
    ['(range:contains:=x)', 'InvalidQueryError'],
  ])('%s is a %s', (text, name) => {
    expect(() => compile(text)).toThrow(expect.objectContaining({ name }) as Error);
  });

  test('names the fields that no index supports', () => {
    const filter = parseFilter('(&(str=1)(_key=a)(x=1)(x=2)(fresh=*))');
    expect(unusableFields(bucket, filter)).toEqual({ unindexedFields: ['x'], reindexingFields: ['fresh'] });
  });
});

describe('matching in memory', () => {
  const object = {
    u: 'value',
    n: 15,
    zero: 0,
    nil: null,
    list: ['a', 'b'],
    str: 'x',
    num: 5,
    ip: '10.0.0.9',
    B: true,
  };

  test.each([
    ['(u=value)', true],
    ['(u=bad)', false],
    ['(n=15)', false],
    ['(n>=15)', true],
    ['(n>=16)', false],
    ['(n<=16)', true],
    ['(u>=valud)', true],
    ['(u>=valuf)', false],
    ['(u<=valuf)', true],
    ['(zero=*)', true],
    ['(nil=*)', false],
    ['(bogus=*)', false],
    ['(u=val*e)', true],
    ['(u=v*l*e)', true],
    ['(u=*alue)', true],
    ['(u=value*e)', false],
    ['(u=n*ope)', false],
    ['(U=value)', true],
    ['(list=b)', true],
    ['(list=c)', false],
    ['(u:caseIgnoreMatch:=VALUE)', true],
    ['(u:caseIgnoreMatch:=V*)', false],
    ['(u:caseIgnoreSubstringsMatch:=V*LUE)', true],
    ['(bogus:caseIgnoreSubstringsMatch:=*t*)', false],
    ['(!(bogus=x))', true],
    ['(num=5.0)', true],
    ['(ip>=10.0.0.10)', false],
    ['(ip<=10.0.0.10)', true],
    ['(|(u=bad)(&(n>=1)(num>=6)))', false],
  ])('%s: %s', (text, expected) => {
    expect(matching(text, object)).toBe(expected);
  });

  test.each([
    ['(x=*o*)', false],
    ['(y=*a*)', false],
    ['(x>=a)', false],
    ['(x:caseIgnoreSubstringsMatch:=*o*)', false],
    ['(x=*)', true],
  ])('objects are in no order and have no parts: %s', (text, expected) => {
    expect(matching(text, { x: { toString: 1, valueOf: null }, y: [['a']] })).toBe(expected);
  });

  test('strings are in the order of their UTF-8, as in PostgreSQL', () => {
    expect(matching('(str>=\uffee)', { str: '\u{1f600}' })).toBe(true);
    expect(matching('(str<=\uffee)', { str: '\u{1f600}' })).toBe(false);
  });

  test('a pattern of many parts does not take for ever', () => {
    const text = 'a'.repeat(50_000);
    expect(matching(`(u=${'*a'.repeat(200)}*b)`, { u: text })).toBe(false);
  });
});

test('every type has its array', () => {
  expect(indexTypeInfo('[daterange]')).toMatchObject({ array: true, pg: 'tstzrange[]', method: 'gin' });
});
