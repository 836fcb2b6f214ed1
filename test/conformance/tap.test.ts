import { expect, test } from 'vitest';
import { parseTap } from './tap.ts';

test('counts assertions by test, and lets logs pass', () => {
  const output = `TAP version 13
# find
ok 1 should be equal
{"name":"log","level":40,"msg":"ok 2"}
not ok 2 (unnamed assert)
  ---
    operator: ok
  ...
# later
ok 3 # SKIP not here
ok 4

1..4
# tests 4
# pass  3
`;
  expect(parseTap(output)).toEqual({ passed: 2, skipped: 1, failures: ['find: (unnamed assert)'] });
});
