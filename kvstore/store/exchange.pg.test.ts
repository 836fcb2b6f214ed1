import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startPostgres, type TestPostgres } from '../../test/fixtures/postgres.ts';
import { exchange, exchangePages, type Statement, type TextRow, textArray } from './exchange.ts';

let postgres: TestPostgres;
let pool: pg.Pool;
let client: pg.PoolClient;

beforeAll(async () => {
  postgres = await startPostgres();
  pool = new pg.Pool({ connectionString: postgres.url, max: 2 });
  pool.on('error', () => {});
  pool.on('connect', (c) => c.on('error', () => {}));
  client = await pool.connect();
});

afterAll(async () => {
  client.release();
  await pool.end();
  await postgres.stop();
});

function sql(text: string, ...values: Statement['values']): Statement {
  return { text, values };
}

async function prepared(): Promise<string[]> {
  const { rows } = await client.query<{ statement: string }>(
    'SELECT statement FROM pg_prepared_statements ORDER BY prepare_time',
  );
  return rows.map((r) => r.statement);
}

test('values go out and come back as they are', async () => {
  const texts = [
    '',
    'plain',
    '"{},\\\' NULL',
    null,
    'NULL',
    'größe – 日本語 𝄞',
    '\u0001\u2028',
    'x'.repeat(70_000),
  ];
  const rows = await exchange(
    client,
    sql('SELECT e, n, $2::text FROM unnest($1::text[]) WITH ORDINALITY AS u(e, n)', textArray(texts), null),
  );
  expect(rows).toEqual(texts.map((text, i) => [text, String(i + 1), null]));
});

describe('several statements', () => {
  test('are one transaction, and answer the rows of the last', async () => {
    const limit = "SELECT set_config('statement_timeout', $1, true)";
    const shown = sql(`SELECT current_setting('statement_timeout'), pg_current_xact_id()::text`);
    const [first] = await exchange(
      client,
      sql('SELECT pg_current_xact_id()::text'),
      sql(limit, '4321'),
      shown,
    );
    expect(first?.[0]).toBe('4321ms');
    const [second] = await exchange(client, shown);
    expect(second?.[0]).toBe('0');
    await expect(
      exchange(client, sql(limit, '20'), sql('SELECT pg_sleep($1::float8)', '30')),
    ).rejects.toMatchObject({ code: '57014' });
    expect(await exchange(client, shown)).toMatchObject([['0', expect.any(String)]]);
  });

  test('that come after one that fails are prepared when they come again', async () => {
    const divide = (by: string) => sql('SELECT 1 / $1::int AS divided', by);
    const later = sql('SELECT 2 AS later');
    const data = { code: '22012' };
    await expect(exchange(client, divide('0'), later)).rejects.toMatchObject(data);
    expect(await exchange(client, divide('1'), later)).toEqual([['2']]);
    // The first is prepared by now, and stays so; the other is new.
    await expect(exchange(client, divide('0'), sql('SELECT 3 AS latest'))).rejects.toMatchObject(data);
    expect(await exchange(client, divide('1'), sql('SELECT 3 AS latest'))).toEqual([['3']]);
    expect(await prepared()).toContain('SELECT 1 / $1::int AS divided');
  });
});

test('a statement is prepared once, one that PostgreSQL refuses is not, and the oldest of many are let go', async () => {
  await expect(exchange(client, sql('SELECT nonsense'))).rejects.toMatchObject({ code: '42703' });
  await expect(exchange(client, sql('SELECT nonsense'))).rejects.toMatchObject({ code: '42703' });
  for (let i = 0; i < 3; i++) await exchange(client, sql('SELECT 0 AS n'));
  expect((await prepared()).filter((text) => text === 'SELECT 0 AS n')).toHaveLength(1);
  for (let i = 1; i <= 300; i++)
    expect(await exchange(client, sql(`SELECT ${i} AS n`))).toEqual([[String(i)]]);
  const left = await prepared();
  expect(left).toContain('SELECT 300 AS n');
  expect(left).not.toContain('SELECT 0 AS n');
  expect(left.length).toBeLessThanOrEqual(201);
});

test('a very long statement is not kept', async () => {
  const long = `SELECT length('${'x'.repeat(20_000)}') + $1::int`;
  for (const n of ['1', '2'])
    expect(await exchange(client, sql(long, n))).toEqual([[String(20_000 + Number(n))]]);
  expect((await prepared()).filter((text) => text.length > 1000)).toEqual([]);
});

test('a statement whose table changes its columns is prepared anew', async () => {
  await client.query('CREATE TABLE changing (a int)');
  const all = sql('SELECT * FROM changing');
  await client.query('INSERT INTO changing VALUES (1)');
  expect(await exchange(client, all)).toEqual([['1']]);
  await client.query(`ALTER TABLE changing ADD COLUMN b text DEFAULT 'x'`);
  await expect(exchange(client, all)).rejects.toMatchObject({ code: '0A000' });
  expect(await exchange(client, all)).toEqual([['1', 'x']]);
});

describe('pages', () => {
  const series = (n: number) =>
    sql(`SELECT n, repeat('x', 1000) FROM generate_series(1, $1::int) n`, String(n));

  test('come in order, the next once the one before is taken, and no more is read meanwhile', async () => {
    let taking = false;
    let last = 0;
    let most = 0;
    await exchangePages(client, [series(20_000)], async (rows) => {
      expect(taking).toBe(false);
      taking = true;
      for (const [n] of rows) expect(Number(n)).toBe(++last);
      most = Math.max(most, rows.length);
      await new Promise(setImmediate);
      taking = false;
      return true;
    });
    expect(last).toBe(20_000);
    expect(most).toBeLessThan(1000);
  });

  test('no rows are no page', async () => {
    await exchangePages(client, [series(0)], () => Promise.reject(new Error('a page came')));
  });

  test.each([
    ['rejects', () => Promise.reject(new Error('refused')), 'refused'],
    ['wants no more', () => Promise.resolve(false), undefined],
  ])('whoever takes them %s, and the connection serves on', async (_, take, message) => {
    const pages = exchangePages(client, [series(250)], take);
    if (message === undefined) await pages;
    else await expect(pages).rejects.toThrow(message);
    expect(await exchange(client, sql('SELECT 1 AS alive'))).toEqual([['1']]);
  });

  test('what is left of very many is cut off', async () => {
    const other = await pool.connect();
    let pages = 0;
    await exchangePages(other, [series(1_000_000)], async () => {
      pages++;
      return false;
    });
    expect(pages).toBe(1);
    await expect(exchange(other, sql('SELECT 1'))).rejects.toThrow(/connection|terminated/i);
    other.release();
    expect(pool.totalCount).toBe(1);
  });

  test('an error after some of them is the error', async () => {
    const seen: TextRow[] = [];
    const failing = sql('SELECT 1 / (500 - n) FROM generate_series(1, $1::int) n', '1000');
    const take = async (rows: TextRow[]) => {
      seen.push(...rows);
      return true;
    };
    await expect(exchangePages(client, [failing], take)).rejects.toMatchObject({ code: '22012' });
    expect(seen.length).toBeLessThan(500);
    expect(await exchange(client, sql('SELECT 1 AS alive'))).toEqual([['1']]);
  });
});
