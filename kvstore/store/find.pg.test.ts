import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { openTestStore, rpcCall, type TestStore } from './testing.ts';

let postgres: TestPostgres;
let store: TestStore;

const values = {
  a: {
    str: 'Alpha',
    num: 1,
    bool: true,
    uuid: '5ec78759-bd10-401a-8fc1-dc1e90018ab1',
    ip: '10.0.0.9',
    ui: 'x',
  },
  b: {
    str: 'beta',
    num: 2.5,
    bool: false,
    ip: '10.0.0.10',
    subnet: '10.0.0.0/24',
    date: '2020-01-01T00:00:00.000Z',
    ui: 'y',
  },
  c: { str: 'Gamma_%', num: 10, mac: '0a:0b:0c:0d:0e:0f', subnet: 'fd00::/64', numrange: '[1,5]', ui: 'x' },
  d: {
    str: 'été',
    num: -3,
    daterange: '[2020-01-01T00:00:00.000Z,2021-01-01T00:00:00.000Z)',
    strs: ['x', 'Y"z'],
    nums: [1, 20],
  },
  e: {
    strs: [],
    ips: ['10.0.0.1', 'fd00::1'],
    dates: ['2020-06-01T00:00:00.000Z'],
    subnets: ['10.1.0.0/16'],
    macs: ['0a:0b:0c:0d:0e:0f'],
  },
  f: {
    str: 'a=b(c)*\\',
    bools: [true],
    uuids: ['5ec78759-bd10-401a-8fc1-dc1e90018ab1'],
    numranges: ['[1,2)', '[5,6)'],
    ip: 'fd00::2',
  },
};

beforeAll(async () => {
  postgres = await startPostgres({ fsync: 'off' });
  store = await openTestStore(postgres.url);
  const scalars = [
    'string',
    'number',
    'boolean',
    'uuid',
    'date',
    'mac',
    'ip',
    'subnet',
    'numrange',
    'daterange',
  ];
  const named = { str: 'string', num: 'number', bool: 'boolean' } as Record<string, string>;
  for (const type of scalars.slice(3)) named[type] = type;
  for (const [name, type] of Object.entries(named)) named[`${name}s`] = `[${type}]`;
  const index = Object.fromEntries(Object.entries(named).map(([name, type]) => [name, { type }]));
  await store.call('createBucket', 'all', { index }, {});
  for (const [key, value] of Object.entries(values)) await store.call('putObject', 'all', key, value, {});
});

afterAll(async () => {
  await store?.store.close();
  await postgres?.stop();
});

async function keys(filter: string, options: object = {}): Promise<string> {
  const sort = { attribute: '_key', order: 'ASC' };
  const found = (await store.call('findObjects', 'all', filter, { sort, ...options })) as { key: string }[];
  return found.map((o) => o.key).join('');
}

test.each([
  ['(str=Alpha)', 'a'],
  ['(str=*)', 'abcdf'],
  ['(!(str=*))', 'e'],
  ['(str=*a*)', 'abcf'],
  ['(str=G*_%)', 'c'],
  ['(str=Gamma\\5f%)', 'c'],
  ['(str=*_*)', 'c'],
  ['(str=\\c3\\a9t\\c3\\a9)', 'd'],
  ['(str=a\\=b\\(c\\)\\*\\\\)', 'f'],
  ['(str=a=b\\28c\\29\\2a\\5c)', 'f'],
  ['(str>=a)', 'bdf'],
  ['(str<=B)', 'a'],
  ['(str:caseIgnoreMatch:=ALPHA)', 'a'],
  ['(str:caseIgnoreMatch:=\\c3\\89T\\c3\\89)', 'd'],
  ['(str:caseIgnoreSubstringsMatch:=*A*M*)', 'c'],
  ['(num=2.5)', 'b'],
  ['(num>=2)', 'bc'],
  ['(num<=2)', 'ad'],
  ['(num:within:=[1,10\\))', 'ab'],
  ['(!(num>=2))', 'adef'],
  ['(bool=true)', 'a'],
  ['(bool=FALSE)', 'b'],
  ['(uuid=5ec78759-bd10-401a-8fc1-dc1e90018ab1)', 'a'],
  ['(ip=10.0.0.9)', 'a'],
  ['(ip>=10.0.0.10)', 'bf'],
  ['(ip=FD00:0::2)', 'f'],
  ['(ip:within:=10.0.0.0/8)', 'ab'],
  ['(subnet=10.0.0.7/24)', 'b'],
  ['(subnet:contains:=fd00::77)', 'c'],
  ['(mac=A:B:C:D:E:F)', 'c'],
  ['(date>=2019-12-31T23:59:59Z)', 'b'],
  ['(date:within:=[2020-01-01T00:00:00Z,\\))', 'b'],
  ['(numrange:contains:=5)', 'c'],
  ['(numrange:overlaps:=[5,9])', 'c'],
  ['(numrange=[1,5])', 'c'],
  ['(daterange:contains:=2020-06-01T00:00:00Z)', 'd'],
  ['(daterange:overlaps:=[,2020-01-01T00:00:00Z])', 'd'],
  ['(strs=Y"z)', 'd'],
  ['(strs:caseIgnoreMatch:=y"Z)', 'd'],
  ['(strs=*)', 'de'],
  ['(!(strs=x))', 'abcef'],
  ['(nums>=20)', 'd'],
  ['(nums:within:=[19,21])', 'd'],
  ['(ips=fd00::1)', 'e'],
  ['(ips:within:=10.0.0.0/8)', 'e'],
  ['(subnets:contains:=10.1.2.3)', 'e'],
  ['(dates<=2020-06-01T00:00:00Z)', 'e'],
  ['(macs=0a:0b:0c:0d:0e:0f)', 'e'],
  ['(bools=true)', 'f'],
  ['(uuids=5ec78759-bd10-401a-8fc1-dc1e90018ab1)', 'f'],
  ['(numranges=[1,2\\))', 'f'],
  ['(numranges:contains:=5)', 'f'],
  ['(_key=b)', 'b'],
  ['(_key>=e)', 'ef'],
  ['(&(_id>=1)(_id<=2))', 'ab'],
  ['(_mtime>=0)', 'abcdef'],
  ['(&(_key=*)(ui=x))', 'ac'],
  ['(&(num>=1)(!(ui=x)))', 'b'],
  ['(|(&(num=1)(ui=y))(&(num=10)(ui=x)))', 'c'],
  ['(|(num=1)(!(str=*)))', 'ae'],
  ['num=1', 'a'],
  ["(str=' OR 1=1 --)", ''],
])('%s finds %s', async (filter, expected) => {
  expect(await keys(filter)).toBe(expected);
});

describe('options', () => {
  test('limit, offset and the count of all', async () => {
    const options = { sort: [{ attribute: 'num', order: 'DESC' }], limit: '2', offset: 1 };
    const found = await store.call('findObjects', 'all', '(num>=-10)', options);
    expect(found).toMatchObject([
      { key: 'b', _count: 4 },
      { key: 'a', _count: 4 },
    ]);
    const uncounted = await store.call('findObjects', 'all', '(num=1)', { no_count: true });
    expect(uncounted.map((object) => Object.hasOwn(object as object, '_count'))).toEqual([false]);
  });

  test('sort keys are fields, and nothing else', async () => {
    for (const attribute of ['_value', 'num; DROP TABLE kv.all', '"num"', 'ui', '1']) {
      await expect(keys('(num=1)', { sort: { attribute, order: 'ASC' } })).rejects.toMatchObject({
        name: 'InvalidQueryError',
      });
    }
    await expect(keys('(num=1)', { limit: '1; DROP TABLE kv.all' })).rejects.toMatchObject({
      name: 'InvocationError',
    });
  });

  test('sql_only answers what would be run, and runs nothing', async () => {
    const [answer] = await store.call('findObjects', 'all', '(num=1)', { sql_only: true });
    expect(answer).toMatchObject({ query: expect.stringContaining('"num" = $1'), count: expect.any(String) });
    expect((answer as { args: unknown[] }).args[0]).toBe('1');
  });

  test('handled options are told first', async () => {
    const options = { internalOpts: { sendHandledOptions: true }, requireIndexes: true };
    const found = await store.call('findObjects', 'all', '(num=1)', options);
    expect(found).toMatchObject([
      { _handledOptions: expect.arrayContaining(['requireIndexes']) },
      { key: 'a' },
    ]);
    await expect(store.call('findObjects', 'all', '(&(num=1)(ui=x))', options)).rejects.toMatchObject({
      name: 'NotIndexedError',
    });
  });

  test('a timeout ends the query, and the connection is as before', async () => {
    await store.call('createBucket', 'slow', { index: { s: { type: 'string' } } }, {});
    const client = new pg.Client(postgres.url);
    await client.connect();
    await client.query('BEGIN; LOCK TABLE kv.slow IN ACCESS EXCLUSIVE MODE');
    await expect(store.call('findObjects', 'slow', '(s=1)', { timeout: 50 })).rejects.toMatchObject({
      name: 'QueryTimeoutError',
    });
    await client.query('ROLLBACK');
    await client.end();
    expect(await store.call('findObjects', 'slow', '(s=1)', {})).toEqual([]);
  });
});

test('searches of one form share a prepared statement, whatever their values, and find what was written since', async () => {
  const one = await openTestStore(postgres.url, { poolSize: 4, sql: true });
  // A statement is prepared anew once it is of some age.
  const clock = vi.spyOn(performance, 'now').mockReturnValue(performance.now());
  await one.call('createBucket', 'forms', { index: { s: { type: 'string' }, n: { type: 'number' } } }, {});
  for (let n = 0; n < 30; n++) {
    await one.call('putObject', 'forms', `k${n}`, { s: `s${n % 3}`, n }, {});
    expect(await one.call('findObjects', 'forms', `(&(s=s${n % 3})(n>=${n}))`, {})).toMatchObject([
      { key: `k${n}`, _count: 1 },
    ]);
  }
  const rows = await one.call(
    'sql',
    `SELECT (generic_plans + custom_plans)::int AS executions FROM pg_prepared_statements
     WHERE statement LIKE '%"forms"%' AND statement LIKE '%_value%'`,
    [],
    {},
  );
  expect(rows).toEqual([{ executions: expect.any(Number) }]);
  expect((rows[0] as { executions: number }).executions).toBeGreaterThan(5);
  clock.mockRestore();
  await one.store.close();
});

describe('a snapshot', () => {
  test('is told after the rows, and where there are none', async () => {
    const found = await store.call('findObjects', 'all', '(num>=1)', { snapshot: true });
    expect(found).toHaveLength(4);
    expect(found.at(-1)).toEqual({
      _snapshot: expect.stringMatching(/^\d+:\d+:/),
      _lsn: expect.stringMatching(/^[0-9A-F]+\/[0-9A-F]+$/),
      _count: 3,
    });
    expect(await store.call('findObjects', 'all', '(num=77)', { snapshot: true })).toMatchObject([
      { _count: 0 },
    ]);
  });

  test('has in it exactly the writes that were committed', async () => {
    const client = new pg.Client(postgres.url);
    await client.connect();
    await client.query('BEGIN');
    const { rows } = await client.query<{ xid: string }>('SELECT pg_current_xact_id()::text AS xid');
    const found = await store.call('findObjects', 'all', '(num=77)', { snapshot: true });
    const { _snapshot } = found.at(-1) as { _snapshot: string };
    const visible = async () => {
      const answer = await client.query('SELECT pg_visible_in_snapshot($1, $2) AS v', [
        rows[0]?.xid,
        _snapshot,
      ]);
      return answer.rows[0].v;
    };
    expect(await visible()).toBe(false);
    await client.query('COMMIT');
    expect(await visible()).toBe(false);
    const later = await store.call('findObjects', 'all', '(num=77)', { snapshot: true });
    const answer = await client.query('SELECT pg_visible_in_snapshot($1, $2) AS v', [
      rows[0]?.xid,
      (later.at(-1) as { _snapshot: string })._snapshot,
    ]);
    expect(answer.rows[0].v).toBe(true);
    await client.end();
  });
});

describe('many rows', () => {
  const total = 3000;

  beforeAll(async () => {
    await store.call('createBucket', 'many', { index: { n: { type: 'number' } } }, {});
    const puts = Array.from({ length: total }, (_, n) =>
      store.call('putObject', 'many', `k${n}`, { n, pad: 'p'.repeat(500) }, {}),
    );
    await Promise.all(puts);
  });

  test('a thousand is the limit where none is named', async () => {
    expect(await store.call('findObjects', 'many', '(n>=0)', {})).toHaveLength(1000);
    const all = await store.call('findObjects', 'many', '(n>=0)', {
      noLimit: true,
      sort: { attribute: 'n' },
    });
    expect(all.map((o) => (o as { value: { n: number } }).value.n)).toEqual(
      Array.from({ length: total }, (_, n) => n),
    );
  });

  test('rows are asked for as they are taken', async () => {
    const find = store.store.rpcs.findObjects;
    let sent = 0;
    let release = () => {};
    const taken = new Promise<void>((resolve) => {
      release = resolve;
    });
    const send = async (rows: readonly unknown[]) => {
      sent += rows.length;
      await taken;
    };
    const done = find?.(rpcCall(['many', '(n>=0)', { noLimit: true }], send));
    // Another call on the same pool goes its way meanwhile.
    expect(await store.call('findObjects', 'many', '(n=5)', {})).toHaveLength(1);
    expect(sent).toBeLessThan(total);
    release();
    await done;
    expect(sent).toBe(total);
  });

  test('a client that is gone ends the query', async () => {
    const abort = new AbortController();
    let sent = 0;
    const send = async (rows: readonly unknown[]) => {
      sent += rows.length;
      abort.abort();
    };
    await store.store.rpcs.findObjects?.(rpcCall(['many', '(n>=0)', { noLimit: true }], send, abort.signal));
    expect(sent).toBeLessThan(total);
    await expect(
      store.store.rpcs.findObjects?.(
        rpcCall(['many', '(n>=0)', { noLimit: true }], () => Promise.reject(new Error('gone'))),
      ),
    ).rejects.toThrow('gone');
    expect(await store.call('findObjects', 'many', '(n=5)', {})).toHaveLength(1);
  });

  test('updates and deletes go through all of them', async () => {
    expect(
      await store.first('updateObjects', 'many', { n: -1 }, '(n>=1000)', { noLimit: true }),
    ).toMatchObject({ count: 2000 });
    expect(await store.first('deleteMany', 'many', '(n=-1)', { noLimit: true })).toEqual({ count: 2000 });
    expect(await store.call('findObjects', 'many', '(n>=-1)', { limit: 1 })).toMatchObject([
      { _count: 1000 },
    ]);
  });
});
