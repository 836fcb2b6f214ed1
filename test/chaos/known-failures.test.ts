import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import { knownFailures } from './known-failures.ts';
import { scenarios } from './scenarios.ts';

const root = new URL('../../', import.meta.url);

test.each(knownFailures)(
  '$failure: is shown to be none by what there is',
  ({ scenarios: of = [], tests = [] }) => {
    expect(of.length + tests.length).toBeGreaterThan(0);
    const names = scenarios.map(({ name }) => name);
    for (const name of of) expect(names).toContain(name);
    for (const file of tests)
      expect(existsSync(new URL(file.replace(/ \(.*\)$/, ''), root)), file).toBe(true);
  },
);

test('every scenario has a name of its own', () => {
  const names = scenarios.map(({ name }) => name);
  expect(names).toEqual([...new Set(names)]);
});
