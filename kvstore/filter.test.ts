import { expect, test } from 'vitest';
import { objectFilter } from './filter.ts';
import type { BucketConfig } from './types.ts';

const index: BucketConfig['index'] = {
  state: { type: 'string' },
  ram: { type: 'number' },
  tags: { type: '[string]' },
  ip: { type: 'ip' },
  span: { type: 'numrange' },
};
const judge = (text: string, value: unknown, key = 'k1') =>
  objectFilter('vms', index, text).matches(key, value);

test.each([
  ['(state=running)', { state: 'running' }, true],
  ['(state=running)', { state: 'stopped' }, false],
  ['(state=running)', { State: 'running' }, false],
  ['(state=running)', null, false],
  ['(!(state=running))', {}, true],
  ['(&(state=run*)(ram>=512))', { state: 'running', ram: 1024 }, true],
  ['(&(state=run*)(ram>=512))', { state: 'running', ram: 64 }, false],
  ['(ram=1000)', { ram: '1e3' }, true],
  ['(ram=*)', { ram: 'no number' }, false],
  ['(tags=b)', { tags: ['a', 'b'] }, true],
  ['(tags=b)', { tags: 'b' }, true],
  ['(ip=10.0.0.1)', { ip: 167772161 }, true],
  ['(ip=10.0.0.1)', { ip: 'nonsense' }, false],
  ['(span=*)', { span: '[1,2]' }, true],
  ['(_key=k1)', {}, true],
  ['(state:caseIgnoreMatch:=RUNNING)', { state: 'running' }, true],
])('%s of %j: %s', (text, value, expected) => {
  expect(judge(text, value)).toBe(expected);
});

test.each([
  ['(owner=x)', 'NotIndexedError'],
  ['(|(state=a)(toString=x))', 'NotIndexedError'],
  ['(_id>=3)', 'NotIndexedError'],
  ['(_mtime>=3)', 'NotIndexedError'],
  ['(tags=a*)', 'NotIndexedError'],
  ['', 'InvalidQueryError'],
  ['(state=running', 'InvalidQueryError'],
  ['(ip=nonsense)', 'InvalidQueryError'],
  ['(ip=10.*)', 'InvalidQueryError'],
  ['(state~=x)', 'InvalidQueryError'],
  ['(span=[1,2])', 'InvalidQueryError'],
  ['(span:contains:=1)', 'InvalidQueryError'],
])('%s is refused: %s', (text, code) => {
  expect(() => objectFilter('vms', index, text)).toThrow(expect.objectContaining({ code }));
});

test('filters that are the same have the same text', () => {
  const text = (filter: string) => objectFilter('vms', index, filter).text;
  expect(text('state=running')).toBe(text('(state=\\72unning)'));
});
