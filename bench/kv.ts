import { randomUUID } from 'node:crypto';
import { spawnKvstore } from '../test/fixtures/kvstore.ts';
import { type Moray, moray } from '../test/fixtures/moray.ts';
import { startPostgres } from '../test/fixtures/postgres.ts';

/**
 * put and get of 1 KB objects with six indexes through the npm package `moray`, against a PostgreSQL and a kvstore
 * process of its own. Usage: node dist/bench/kv.js [seconds a step]
 */

const bucket = 'bench';
const config = {
  index: {
    name: { type: 'string' },
    size: { type: 'number' },
    active: { type: 'boolean' },
    ip: { type: 'ip' },
    owner_uuid: { type: 'uuid' },
    mac: { type: 'mac', unique: true },
  },
  options: { version: 1 },
};
const stepMs = Number(process.argv[2] ?? 5) * 1000;

let written = 0;

function object(n: number): object {
  const hex = n.toString(16).padStart(10, '0');
  const mac = `02${hex}`.match(/../g)?.join(':');
  const indexed = {
    name: `object ${n}`,
    size: n,
    active: n % 2 === 0,
    ip: `10.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255}`,
    owner_uuid: randomUUID(),
    mac,
  };
  const fill = 1024 - JSON.stringify({ ...indexed, fill: '' }).length;
  return { ...indexed, fill: 'x'.repeat(fill) };
}

type Operation = (client: Moray) => Promise<unknown>;

const operations: Readonly<Record<string, Operation>> = {
  put: (client) => {
    const n = written++;
    return client.putObject(bucket, `key${n}`, object(n));
  },
  get: (client) => client.getObject(bucket, `key${Math.floor(Math.random() * written)}`),
};

/** Runs `operation` from `concurrency` loops for `ms`; answers each call's duration, in milliseconds. */
async function load(client: Moray, operation: Operation, concurrency: number, ms: number): Promise<number[]> {
  const durations: number[] = [];
  const end = performance.now() + ms;
  const loop = async () => {
    for (let start = performance.now(); start < end; ) {
      await operation(client);
      const now = performance.now();
      durations.push(now - start);
      start = now;
    }
  };
  await Promise.all(Array.from({ length: concurrency }, loop));
  return durations;
}

function quantile(sorted: Float64Array, q: number): string {
  return (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN).toFixed(2);
}

const postgres = await startPostgres();
const kvstore = await spawnKvstore(postgres.url);
const client = await moray(kvstore.port);
try {
  await client.createBucket(bucket, config);
  const table: Record<string, string | number>[] = [];
  for (const [name, operation] of Object.entries(operations)) {
    await load(client, operation, 16, stepMs / 2);
    for (const concurrency of [1, 16, 64]) {
      const started = performance.now();
      const sorted = Float64Array.from(await load(client, operation, concurrency, stepMs)).sort();
      table.push({
        operation: name,
        concurrency,
        'ops/s': Math.round((sorted.length / (performance.now() - started)) * 1000),
        'p50 ms': quantile(sorted, 0.5),
        'p99 ms': quantile(sorted, 0.99),
      });
    }
  }
  console.table(table);
} finally {
  await client.close();
  await kvstore.stop();
  await postgres.stop();
}
