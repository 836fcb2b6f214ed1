import { once } from 'node:events';
import pg from 'pg';
import { z } from 'zod';
import { FastConnection } from '../kvstore/fast/connection.ts';
import { spawnKvstore } from '../test/fixtures/kvstore.ts';
import { startPostgres } from '../test/fixtures/postgres.ts';
import { quantile } from './quantile.ts';

/**
 * A bucket of many objects of 1 KB gets three indexes (one of them unique) through one server, and is reindexed, while
 * objects are put through another: how long each takes, and the puts before and meanwhile.
 * Usage: node dist/bench/schema.js [objects] [concurrency]
 */

const objects = Number(process.argv[2] ?? 1_000_000);
const concurrency = Number(process.argv[3] ?? 16);
const beforeMs = 15_000;
const reindexChunk = 500;

const name = { name: { type: 'string' } };
const added = { size: { type: 'number' }, owner_uuid: { type: 'uuid' }, mac: { type: 'mac', unique: true } };

const reindexSchema = z.object({ processed: z.number() });

const postgres = await startPostgres();
const servers = await Promise.all([spawnKvstore(postgres.url), spawnKvstore(postgres.url)]);
const writing = await connect(servers[0].port);
const changing = await connect(servers[1].port);

async function connect(port: number): Promise<FastConnection> {
  const connection = new FastConnection({ host: '127.0.0.1', port });
  await once(connection, 'connect');
  return connection;
}

async function fill(): Promise<void> {
  const client = new pg.Client(postgres.url);
  await client.connect();
  await client.query(
    `INSERT INTO kv.bench (_key, _value, _etag, _mtime, _rver, _pkey, name)
     SELECT 'key' || i, json_build_object('name', 'object ' || i, 'size', i, 'owner_uuid', gen_random_uuid(),
         'mac', regexp_replace('02' || lpad(to_hex(i), 10, '0'), '(..)(?=.)', '\\1:', 'g'), 'fill', repeat('x', 870)),
       'E' || i, 0, 1, 'key' || i, 'object ' || i
     FROM generate_series(1, $1::integer) i`,
    [objects],
  );
  await client.query('VACUUM ANALYZE kv.bench');
  await client.query('CHECKPOINT');
  await client.end();
}

function objectOf(i: number): object {
  const mac = `02${i.toString(16).padStart(10, '0')}`.match(/../g)?.join(':');
  const owner = '00000000-0000-4000-8000-000000000000';
  return { name: `object ${i}`, size: i, owner_uuid: owner, mac, fill: 'x'.repeat(870) };
}

/** Every other put is of a new object, the others of one that is there. */
let created = objects;
async function put(): Promise<void> {
  const i = Math.random() < 0.5 ? ++created : 1 + Math.floor(Math.random() * objects);
  await writing.call('putObject', ['bench', `key${i}`, objectOf(i), {}]);
}

/** Puts for as long as `work` takes. */
async function during(what: string, work: () => Promise<unknown>): Promise<object> {
  const durations: number[] = [];
  let errors = 0;
  let running = true;
  const started = performance.now();
  const loops = Array.from({ length: concurrency }, async () => {
    while (running) {
      const start = performance.now();
      await put().catch((error: unknown) => {
        if (errors++ === 0) console.error(error);
      });
      durations.push(performance.now() - start);
    }
  });
  await work();
  const seconds = (performance.now() - started) / 1000;
  running = false;
  await Promise.all(loops);
  const sorted = Float64Array.from(durations).sort();
  return {
    during: what,
    'took s': Number(seconds.toFixed(1)),
    'puts/s': Math.round(sorted.length / seconds),
    'p50 ms': Number(quantile(sorted, 0.5).toFixed(1)),
    'p99 ms': Number(quantile(sorted, 0.99).toFixed(1)),
    'longest ms': Math.round(sorted.at(-1) ?? Number.NaN),
    errors,
  };
}

async function reindex(): Promise<void> {
  for (;;) {
    const [answer] = await changing.call('reindexObjects', ['bench', reindexChunk, {}]);
    if (reindexSchema.parse(answer).processed === 0) return;
  }
}

try {
  await changing.call('createBucket', ['bench', { index: name, options: { version: 1 } }, {}]);
  const started = performance.now();
  await fill();
  console.log(`${objects} objects of 1 KB in ${Math.round((performance.now() - started) / 1000)} s`);
  const config = { index: { ...name, ...added }, options: { version: 2 } };
  await during('warming up', () => new Promise((resolve) => setTimeout(resolve, 3_000)));
  console.table([
    await during('nothing else', () => new Promise((resolve) => setTimeout(resolve, beforeMs))),
    await during('three indexes built', () => changing.call('updateBucket', ['bench', config, {}])),
    await during('objects reindexed', reindex),
  ]);
} finally {
  for (const connection of [writing, changing]) connection.destroy();
  for (const server of servers) await server.stop();
  await postgres.stop();
}
