import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { isCongerError } from '../../../runtime/errors.ts';
import { startPostgres, type TestPostgres } from '../../../test/fixtures/postgres.ts';
import { bucket, bucketConfig, randomFilter, randomObject } from '../../../test/fuzz/filters.ts';
import { Random } from '../../../test/random.ts';
import { objectFilter } from '../../filter.ts';
import type { BucketConfig } from '../../types.ts';
import { openTestStore, type TestStore } from '../testing.ts';
import { type Filter, formatFilter, type Leaf, leavesOf } from './ast.ts';
import { typeOf } from './compile.ts';
import { matches } from './match.ts';
import { parseFilter } from './parse.ts';

/** The same filters over the same objects, by PostgreSQL and in memory. */

vi.setConfig({ testTimeout: 240_000 });

let postgres: TestPostgres;
let store: TestStore;
let objects: ReadonlyMap<string, Record<string, unknown>>;

const types = (attribute: string) => typeOf(bucket, attribute);

async function find(filter: string): Promise<Map<string, Record<string, unknown>>> {
  const found = await store.call('findObjects', 'fuzz', filter, { no_count: true });
  return new Map(
    (found as { key: string; value: object; _id: number }[]).map(({ key, value, _id }) => [
      key,
      { ...value, _key: key, _id },
    ]),
  );
}

beforeAll(async () => {
  postgres = await startPostgres({ fsync: 'off' });
  store = await openTestStore(postgres.url);
  await store.call('createBucket', 'fuzz', bucketConfig, {});
  const random = new Random(7);
  await Promise.all(
    Array.from({ length: 200 }, (_, i) => store.call('putObject', 'fuzz', `k${i}`, randomObject(random), {})),
  );
  objects = await find('(_id>=0)');
});

afterAll(async () => {
  await store?.store.close();
  await postgres?.stop();
});

/** What only PostgreSQL decides: rules on ranges, and the order and the equality of ranges. */
function onlyPostgres(leaf: Leaf): boolean {
  const info = types(leaf.attribute);
  if (leaf.type === 'ext') return !leaf.rule.startsWith('caseIgnore');
  return info?.scalar.endsWith('range') === true && leaf.type !== 'present';
}

test('PostgreSQL takes every filter that compiles, and finds what is found in memory', async () => {
  const random = new Random(3);
  let compared = 0;
  let refused = 0;
  const differences: string[] = [];
  for (let round = 0; round < 1_500; round++) {
    const filter: Filter = randomFilter(random);
    const text = formatFilter(filter);
    let found: Map<string, unknown>;
    try {
      found = await find(text);
    } catch (error) {
      // Bounds in the wrong order are PostgreSQL's to refuse.
      if (!isCongerError(error, 'InvalidQueryError', 'NotIndexedError', 'InvocationError')) throw error;
      refused++;
      continue;
    }
    if (leavesOf(filter).some(onlyPostgres)) continue;
    compared++;
    const parsed = parseFilter(text);
    const expected = [...objects].filter(([, object]) => matches(parsed, object, types)).map(([key]) => key);
    if ([...found.keys()].sort().join() !== expected.sort().join()) {
      const only = [...found.keys()].filter((key) => !expected.includes(key));
      const missing = expected.filter((key) => !found.has(key));
      differences.push(`${text}: only PostgreSQL finds ${only}; only memory finds ${missing}`);
    }
  }
  expect(differences.slice(0, 20)).toEqual([]);
  expect(compared).toBeGreaterThan(500);
  expect(refused).toBeLessThan(750);
});

test('a filter that a feed takes finds in memory what PostgreSQL finds', async () => {
  const random = new Random(11);
  const differences: string[] = [];
  let compared = 0;
  for (let round = 0; round < 1_000; round++) {
    const text = formatFilter(randomFilter(random));
    let matches: (key: string, value: unknown) => boolean;
    try {
      matches = objectFilter('fuzz', bucketConfig.index as BucketConfig['index'], text).matches;
    } catch (error) {
      if (!isCongerError(error, 'InvalidQueryError', 'NotIndexedError')) throw error;
      continue;
    }
    compared++;
    const found = [...(await find(text)).keys()];
    const expected = [...objects].filter(([key, object]) => matches(key, object)).map(([key]) => key);
    if (found.sort().join() !== expected.sort().join()) differences.push(`${text}: ${found} but ${expected}`);
  }
  expect(differences.slice(0, 20)).toEqual([]);
  expect(compared).toBeGreaterThan(200);
});
