import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { CHANGE_PREFIX } from '../changefeed/capture/assembler.ts';
import { openLogReader } from '../changefeed/log/index.ts';
import { loadConfig } from '../runtime/config.ts';
import { silentLogger } from '../runtime/log.ts';
import { kafkaAvailable, startKafka } from '../test/fixtures/kafka.ts';
import { startPostgres } from '../test/fixtures/postgres.ts';
import { quantile } from './quantile.ts';

/**
 * The changefeed on both logs, with changes of 1 KB: from a commit to a consumer in another process under light load,
 * and how fast the capture works a backlog off. PostgreSQL, capture, consumer and load share the machine.
 * Usage: node dist/bench/feed.js [changes in the backlog] [seconds of light load]
 */

const backlog = Number(process.argv[2] ?? 100_000);
const seconds = Number(process.argv[3] ?? 10);
const writesPerSecond = 200;
const consumerMark = 'as consumer';

/** Milliseconds, on a clock that all processes of this machine share. */
const now = () => performance.timeOrigin + performance.now();

if (process.argv[2] === consumerMark) await consume();
else await main();

/** The other process: tells its parent how long each change took, whose body says when its statement was sent. */
async function consume(): Promise<void> {
  const reader = await openLogReader(loadConfig(), silentLogger());
  await reader.readAll(0, ({ records }) => {
    const at = now();
    process.send?.(
      records.map((record) => at - (JSON.parse(record.body.toString()) as { sent: number }).sent),
    );
  });
  process.send?.('reading');
  process.once('disconnect', () => process.exit());
}

async function main(): Promise<void> {
  const table = [await measure('embedded', [])];
  if (await kafkaAvailable()) {
    const kafka = await startKafka();
    try {
      table.push(await measure('Kafka, one broker', kafka.brokers));
    } finally {
      await kafka.stop();
    }
  }
  console.table(table);
}

async function measure(log: string, brokers: readonly string[]) {
  const postgres = await startPostgres();
  const env = {
    ...process.env,
    CONGER_POSTGRES: postgres.url,
    CONGER_KAFKA: brokers.join(','),
    CONGER_LOG_LEVEL: 'warn',
  };
  const client = new pg.Client(postgres.url);
  await client.connect();
  try {
    const latencies = await measureLatency(client, env);
    const throughput = await measureBacklog(client, env);
    return {
      log,
      'statement sent to consumer, p50 ms': quantile(latencies, 0.5).toFixed(2),
      'p99 ms': quantile(latencies, 0.99).toFixed(2),
      'backlog captured, changes/s': throughput,
    };
  } finally {
    await client.end();
    await postgres.stop();
  }
}

async function measureLatency(client: pg.Client, env: NodeJS.ProcessEnv): Promise<number[]> {
  const capture = await spawnCapture(env);
  const consumer = fork(fileURLToPath(import.meta.url), [consumerMark], { env });
  const latencies: number[] = [];
  await new Promise((resolve) => {
    consumer.on('message', (message) => {
      if (message === 'reading') resolve(undefined);
      else latencies.push(...(message as number[]));
    });
  });
  const writes = seconds * writesPerSecond;
  const start = now();
  for (let n = 0; n < writes; n++) {
    const early = start + (n * 1000) / writesPerSecond - now();
    if (early > 0) await new Promise((resolve) => setTimeout(resolve, early));
    const body = JSON.stringify({ sent: now(), pad: 'x'.repeat(980) });
    await client.query('SELECT pg_logical_emit_message(true, $1, $2)', [
      `${CHANGE_PREFIX}owner-${n % 100}`,
      body,
    ]);
  }
  while (latencies.length < writes) await once(consumer, 'message');
  consumer.disconnect();
  await Promise.all([once(consumer, 'exit'), stop(capture.child)]);
  // The first second is warming up.
  return latencies.slice(writesPerSecond).sort((a, b) => a - b);
}

async function measureBacklog(client: pg.Client, env: NodeJS.ProcessEnv): Promise<number> {
  const perTransaction = 20;
  for (let n = 0; n < backlog; n += perTransaction) {
    await client.query(
      `SELECT pg_logical_emit_message(true, '${CHANGE_PREFIX}owner-' || (n % 100), $1) FROM generate_series($2::int, $3) n`,
      [JSON.stringify({ pad: 'x'.repeat(1000) }), n + 1, n + perTransaction],
    );
  }
  const start = now();
  const capture = await spawnCapture(env);
  for (let done = 0; done < backlog; ) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    const text = await (await fetch(`${capture.url}/metrics`)).text();
    done = Number(/^conger_capture_changes_total (\d+)$/m.exec(text)?.[1] ?? 0);
  }
  const took = (now() - start) / 1000;
  await stop(capture.child);
  return Math.round(backlog / took);
}

async function spawnCapture(env: NodeJS.ProcessEnv): Promise<{ child: ChildProcess; url: string }> {
  const entry = fileURLToPath(new URL('../changefeed/capture/main.js', import.meta.url));
  const child = fork(entry, [], { env, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const [message] = await once(child, 'message');
  return { child, url: message.ready.urls[0] };
}

async function stop(child: ChildProcess): Promise<void> {
  const exit = once(child, 'exit');
  child.kill('SIGTERM');
  await exit;
}
