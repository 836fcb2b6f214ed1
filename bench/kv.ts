import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { spawnKvstore } from '../test/fixtures/kvstore.ts';
import { moray } from '../test/fixtures/moray.ts';
import { startPostgres } from '../test/fixtures/postgres.ts';
import { type BenchClient, npmClient, ownClient } from './kv/clients.ts';
import { cpuOf, memoryOf, parentOf } from './kv/cpu.ts';
import { load } from './kv/load.ts';
import { bucket, config } from './kv/objects.ts';
import { type Step, settle, steps } from './kv/steps.ts';
import { quantile } from './quantile.ts';

/**
 * The KV tier's operations on 1 KB objects with six indexes: through the npm package `moray` and through Conger's own
 * client, against a kvstore process over a PostgreSQL of its own, and against a server that does nothing (the client's
 * own limit). Client, server and PostgreSQL share the machine; the CPU that each spends on an operation is what stays
 * comparable when something else runs.
 * Usage: node dist/bench/kv.js [seconds a step] [part of a step's name]
 */

const stepMs = Number(process.argv[2] ?? 5) * 1000;
const wanted = process.argv[3] ?? '';
const clients = { 'npm moray': npmClient, Conger: ownClient };

interface Watched {
  readonly server: number;
  readonly postgres: number;
}

function perOperation(seconds: number, operations: number): number {
  return Math.round((seconds / operations) * 1e6);
}

async function measure(step: Step, client: BenchClient, { server, postgres }: Watched) {
  const operation = step.operation(client);
  await load(operation, step.concurrency, Math.min(1000, stepMs / 2));
  settle();
  const before = { own: process.cpuUsage(), server: cpuOf(server), postgres: cpuOf(postgres) };
  let memory = 0;
  const sampler = setInterval(() => {
    memory = Math.max(memory, memoryOf(server));
  }, 100);
  const result = await load(operation, step.concurrency, stepMs);
  clearInterval(sampler);
  settle();
  const own = process.cpuUsage(before.own);
  const { operations, durations, errors } = result;
  return {
    operation: step.name,
    concurrency: step.concurrency,
    'ops/s': Math.round(result.perSecond),
    'p50 ms': Number(quantile(durations, 0.5).toFixed(2)),
    'p99 ms': Number(quantile(durations, 0.99).toFixed(2)),
    'client µs/op': Math.round((own.user + own.system) / operations),
    'server µs/op': perOperation(cpuOf(server) - before.server, operations),
    'PostgreSQL µs/op': perOperation(cpuOf(postgres) - before.postgres, operations),
    'server MB': Math.round(memory),
    errors: [...errors].map(([name, count]) => `${count} ${name}`).join(', '),
  };
}

async function measureAll(port: number, watched: Watched): Promise<void> {
  for (const [name, connect] of Object.entries(clients)) {
    const client = await connect(port);
    const table = [];
    for (const step of steps) {
      if (!`${step.name} ${step.concurrency}`.includes(wanted)) continue;
      table.push(await measure(step, client, watched));
    }
    await client.close();
    console.log(`Client: ${name}`);
    console.table(table);
  }
}

async function againstKvstore(): Promise<void> {
  const postgres = await startPostgres();
  const kvstore = await spawnKvstore(postgres.url);
  try {
    const backend = new pg.Client(postgres.url);
    await backend.connect();
    const { rows } = await backend.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
    const postmaster = parentOf(rows[0]?.pid ?? Number.NaN);
    await backend.end();
    const client = await moray(kvstore.port);
    await client.createBucket(bucket, config);
    await client.close();
    // So many that the finds have something to find also where only they are wanted.
    const filling = await ownClient(kvstore.port);
    const [put] = steps;
    if (put !== undefined) await load(put.operation(filling), 64, 1000);
    await filling.close();
    settle();
    console.log('Against kvstore on PostgreSQL');
    await measureAll(kvstore.port, { server: kvstore.child.pid ?? Number.NaN, postgres: postmaster });
  } finally {
    await kvstore.stop();
    await postgres.stop();
  }
}

async function againstNothing(): Promise<void> {
  const child = fork(fileURLToPath(new URL('kv/noop.js', import.meta.url)));
  const [port] = await once(child, 'message');
  console.log('Against a server that answers from memory');
  await measureAll(Number(port), { server: child.pid ?? Number.NaN, postgres: Number.NaN });
  child.disconnect();
}

await againstKvstore();
await againstNothing();
