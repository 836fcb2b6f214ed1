import assert from 'node:assert/strict';
import { once } from 'node:events';
import pg from 'pg';
import { FastConnection } from '../../../kvstore/fast/connection.ts';
import { FastServer } from '../../../kvstore/fast/server.ts';
import { formatFilter } from '../../../kvstore/store/filter/ast.ts';
import { createStore, type OpenStore } from '../../../kvstore/store/index.ts';
import { indexTypeNames } from '../../../kvstore/store/index-types.ts';
import { isCongerError, messageOf } from '../../../runtime/errors.ts';
import { silentLogger } from '../../../runtime/log.ts';
import { startPostgres, type TestPostgres } from '../../fixtures/postgres.ts';
import type { Random } from '../../random.ts';
import { bucketConfig, fields, randomFilter, randomObject } from '../filters.ts';
import type { Target } from '../target.ts';

const buckets = ['fuzz', 'fuzz', 'fuzz', 'a', 'A', 'canary_', 'buckets_config', '__proto__', 'b"; --', ''];
const keys = ['a', 'b', 'c', '', '\0', '\ud800', '𝄞', "';--", '__proto__', 'k'.repeat(3000)];
const odd = [
  ...[
    null,
    true,
    false,
    0,
    -1,
    1.5,
    2 ** 31,
    2 ** 53,
    1e300,
    '',
    'x',
    '\0',
    '5',
    'null',
    '99999999999999999999',
  ],
  ...[
    [],
    {},
    [null],
    { a: { b: [] } },
    { toString: 1 },
    JSON.parse('{"__proto__":{"x":1}}'),
    'x'.repeat(9000),
  ],
] as const;
const optionNames = [
  ...[
    'etag',
    '_etag',
    'limit',
    'offset',
    'noLimit',
    'no_count',
    'sql_only',
    'requireIndexes',
    'timeout',
    'sort',
  ],
  ...['req_id', 'noBucketCache', 'snapshot', 'deep', 'traceparent', 'no_reindex', 'internalOpts', 'headers'],
];

function value(random: Random): unknown {
  return random.below(6) === 0 ? random.pick<unknown>(odd) : randomObject(random);
}

function options(random: Random): unknown {
  if (random.below(8) === 0) return random.pick<unknown>(odd);
  const made: Record<string, unknown> = {};
  for (let n = random.below(3); n > 0; n--) made[random.pick(optionNames)] = random.pick<unknown>(odd);
  if (random.below(4) === 0) {
    made.sort = { attribute: random.pick([...fields.keys(), '_id', 'no"', '']), order: 'DESC' };
  }
  return made;
}

function config(random: Random): unknown {
  const index: Record<string, unknown> = {};
  for (let n = random.below(4); n > 0; n--) {
    const field = random.pick([
      ...fields.keys(),
      'x',
      '_key',
      'x"y',
      '__proto__',
      'constructor',
      'y'.repeat(64),
    ]);
    index[field] = { type: random.pick([...indexTypeNames, 'text']), unique: random.below(3) === 0 };
  }
  return { index, options: { version: random.below(4), partition: random.pick<unknown>(['a', ...odd]) } };
}

function request(random: Random): unknown {
  const filter = formatFilter(randomFilter(random, 1));
  const operation = random.pick(['put', 'put', 'delete', 'update', 'deleteMany', null]);
  const common = {
    operation,
    bucket: random.pick(buckets),
    key: random.pick(keys),
    options: options(random),
  };
  return { ...common, filter, value: value(random), fields: value(random) };
}

const signatures: Readonly<Record<string, (random: Random) => unknown[]>> = {
  putObject: (r) => [r.pick(buckets), r.pick(keys), value(r), options(r)],
  getObject: (r) => [r.pick(buckets), r.pick(keys), options(r)],
  delObject: (r) => [r.pick(buckets), r.pick(keys), options(r)],
  findObjects: (r) => [r.pick(buckets), formatFilter(randomFilter(r)), options(r)],
  updateObjects: (r) => [r.pick(buckets), value(r), formatFilter(randomFilter(r, 1)), options(r)],
  deleteMany: (r) => [r.pick(buckets), formatFilter(randomFilter(r, 1)), options(r)],
  reindexObjects: (r) => [r.pick(buckets), r.pick<unknown>(odd), options(r)],
  batch: (r) => [Array.from({ length: r.below(4) }, () => request(r)), options(r)],
  createBucket: (r) => [r.pick(['a', 'A', ...buckets]), config(r), options(r)],
  updateBucket: (r) => [r.pick(['a', 'A', ...buckets]), config(r), options(r)],
  delBucket: (r) => [r.pick(['a', 'A', 'b', '']), options(r)],
  getBucket: (r) => [options(r), r.pick(buckets)],
  listBuckets: (r) => [options(r)],
  ping: (r) => [options(r)],
  version: (r) => [options(r)],
  getTokens: (r) => [options(r)],
  gatherstats: (r) => [options(r)],
  notify: (r) => [r.pick(keys), r.pick<unknown>(odd), options(r)],
  listen: (r) => [r.pick(keys), options(r)],
  unlisten: (r) => [r.pick(keys), options(r)],
  sql: (r) => ['DROP TABLE canary', [], options(r)],
};

function parsed(input: Buffer): [method: string, args: unknown[]] | undefined {
  try {
    const call: unknown = JSON.parse(input.toString());
    if (!Array.isArray(call) || typeof call[0] !== 'string' || call[0] === '') return undefined;
    return [call[0], call.slice(1)];
  } catch {
    return undefined;
  }
}

/** A server with a PostgreSQL of its own, and tables that nothing may touch. */
class Stage {
  readonly #postgres: TestPostgres;
  readonly #store: OpenStore;
  readonly #server: FastServer;
  #client: FastConnection | undefined;

  private constructor(postgres: TestPostgres, store: OpenStore, server: FastServer) {
    this.#postgres = postgres;
    this.#store = store;
    this.#server = server;
  }

  static async open(): Promise<Stage> {
    const postgres = await startPostgres({ fsync: 'off' });
    const log = silentLogger();
    const store = await createStore({ url: postgres.url, poolSize: 4, log, sql: false });
    const server = await FastServer.listen({ rpcs: store.rpcs, log, host: '127.0.0.1', port: 0 });
    const stage = new Stage(postgres, store, server);
    await stage.#query('CREATE TABLE canary AS SELECT 42 AS a');
    await stage.#query('CREATE TABLE kv."canary" AS SELECT 42 AS a');
    await stage.call('createBucket', ['fuzz', bucketConfig, {}]);
    return stage;
  }

  /** @throws CongerError */
  async call(method: string, args: readonly unknown[]): Promise<void> {
    if (this.#client?.usable !== true) {
      this.#client = new FastConnection({ host: '127.0.0.1', port: this.#server.port, silenceMs: 60_000 });
      await once(this.#client, 'connect');
    }
    const answered = this.#client.call(method, args);
    if (method !== 'listen') {
      await answered;
      return;
    }
    // It goes on until its client goes.
    const client = this.#client;
    const timer = setTimeout(() => client.destroy(), 20);
    try {
      await answered;
    } catch (error) {
      if (isCongerError(error)) throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  async close(): Promise<void> {
    this.#client?.destroy();
    try {
      const tables = await this.#query(
        `SELECT schemaname || '.' || tablename AS name FROM pg_tables
         WHERE schemaname NOT IN ('pg_catalog', 'information_schema') AND tablename NOT LIKE 'bucket.%'
         EXCEPT SELECT 'kv.' || name FROM kv.buckets_config ORDER BY name`,
      );
      assert.deepEqual(
        tables.map(({ name }) => name),
        ['kv.buckets_config', 'kv.canary', 'public.canary'],
      );
      assert.deepEqual(await this.#query('SELECT a FROM canary UNION ALL SELECT a FROM kv.canary'), [
        { a: 42 },
        { a: 42 },
      ]);
    } finally {
      await this.#server.close(1_000);
      await this.#store.close();
      await this.#postgres.stop();
    }
  }

  async #query(text: string): Promise<Record<string, unknown>[]> {
    const client = new pg.Client({ connectionString: this.#postgres.url });
    await client.connect();
    try {
      return (await client.query<Record<string, unknown>>(text)).rows;
    } finally {
      await client.end();
    }
  }
}

/** Faults inside the server; all other errors are the caller's own. */
const faults = ['InternalError', 'NoDatabasePeersError', 'UnknownOutcomeError', 'OverloadedError'] as const;

let stage: Stage | undefined;

/** Calls of a server over a PostgreSQL: any JSON, as `[method, ...arguments]`. */
export const calls: Target = {
  name: 'arguments',
  notation: 'txt',
  modules: /\/kvstore\/(store|fast)\//,
  words: [
    ...[
      'null',
      '[]',
      '{}',
      '"fuzz"',
      '""',
      '{"limit":1}',
      '-1',
      '1e300',
      '"\\u0000"',
      '"\\ud800"',
      '[[[[1]]]]',
    ],
    ...['{"toString":1}', '"__proto__":{}', '"etag":', '"sort":[{"attribute":"string"}]', 'true', '1.5'],
  ],
  generate: (random) => {
    const [method, make] = random.pick(Object.entries(signatures));
    return Buffer.from(JSON.stringify([method, ...make(random)]));
  },
  mend: (random, input) => (parsed(input) === undefined ? calls.generate(random) : input),
  async run(input) {
    const call = parsed(input);
    if (call === undefined) return;
    stage ??= await Stage.open();
    try {
      await stage.call(...call);
    } catch (error) {
      if (!isCongerError(error)) throw error;
      assert(!isCongerError(error, ...faults), `${error.code}: ${messageOf(error)}`);
    }
  },
  async close() {
    await stage?.close();
    stage = undefined;
  },
};
