import assert from 'node:assert/strict';
import { formatFilter } from '../../../kvstore/store/filter/ast.ts';
import { Parameters } from '../../../kvstore/store/filter/compile.ts';
import { matches } from '../../../kvstore/store/filter/match.ts';
import { parseFilter } from '../../../kvstore/store/filter/parse.ts';
import { compileSearch, filterOf, requireIndexes } from '../../../kvstore/store/search.ts';
import { isCongerError } from '../../../runtime/errors.ts';
import { Random } from '../../random.ts';
import { bucket, fields, randomFilter, randomObject } from '../filters.ts';
import type { Target } from '../target.ts';

/** All that a compiled search may be made of: known columns, parameters, and PostgreSQL's words. */
const tokens = new RegExp(
  [
    ...[...fields.keys()].map((field) => `"${field}"`),
    ...['_id', '_mtime', '_txn_snap', '_key', '_etag'],
    String.raw`\$\d+::(text|numeric|bigint|integer|boolean|uuid|timestamptz|macaddr|inet|cidr|numrange|tstzrange)`,
    ...['AND', 'OR', 'NOT', 'IS NOT NULL', 'LIKE', 'ARRAY', 'ANY', 'IN', 'coalesce', 'false', 'lower'],
    ...['LIMIT', 'SELECT', 'FROM unnest', 'AS e', 'e', 'COLLATE "pg_c_utf8"'],
    String.raw`@>|<@|&&|>>|<<|>=|<=|=|[()[\],\s]`,
  ].join('|'),
  'gy',
);

function foreignPart(sql: string): string | undefined {
  tokens.lastIndex = 0;
  let end = 0;
  while (end < sql.length && tokens.test(sql)) end = tokens.lastIndex;
  return end < sql.length ? sql.slice(end, end + 40) : undefined;
}

const objects: readonly Record<string, unknown>[] = [
  {},
  ...Array.from({ length: 3 }, (_, i) => randomObject(new Random(i))),
  // What lies in a field without an index is anything.
  { other: { toString: 1, valueOf: null }, string: 5, number: 'x', x: [null, {}], a: [[['b']]] },
];

/** Filters: any text. */
export const filter: Target = {
  name: 'filter',
  notation: 'txt',
  modules: /\/kvstore\/store\/(filter\/|search|values|index-types)/,
  words: [
    ...[...fields.keys(), '_id', '_key', 'other'].map((field) => `(${field}=`),
    ...['(&', '(|', '(!', '!', '>=', '<=', '~=', ':=', '=*', '*', '\\2a', '\\c3\\a9', '\\(', '\\', ')', '))'],
    ...[':caseIgnoreMatch:=', ':caseIgnoreSubstringsMatch:=', ':overlaps:=', ':contains:=', ':within:='],
    ...[
      '1970-01-01T00:00:00Z',
      '10.0.0.1',
      'fd00::/8',
      '[1,2]',
      'true',
      '1e309',
      '\0',
      '\u2028',
      "';--",
      '$1',
    ],
  ],
  generate: (random) => Buffer.from(formatFilter(randomFilter(random))),
  run(input) {
    const text = input.toString();
    try {
      const parsed = filterOf(text);
      assert.deepEqual(parseFilter(formatFilter(parsed)), parsed, 'a filter is read otherwise than written');
      for (const object of objects) matches(parsed, object, (name) => bucket.usable.get(name)?.info);
      const parameters = new Parameters();
      const { sql, tail } = compileSearch(bucket, parsed, {}, parameters);
      assert.equal(foreignPart(`${sql} ${tail}`), undefined, 'SQL has what is neither known nor a parameter');
      // PostgreSQL refuses a statement that leaves one out.
      const unnamed = parameters.values.findIndex((_, i) => !`${sql} ${tail}`.includes(`$${i + 1}::`));
      assert.equal(unnamed, -1, 'a parameter is in no part of the SQL');
      requireIndexes(bucket, parsed, text);
    } catch (error) {
      if (!isCongerError(error, 'InvalidQueryError', 'NotIndexedError')) throw error;
    }
  },
  close: async () => {},
};
