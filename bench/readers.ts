import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { startPostgres } from '../test/fixtures/postgres.ts';
import { measureIdle, measureResume, measureTold, type Store } from './readers/measures.ts';

const help = `Many readers of one service's feed: a change of 1 KB told to all of them, memory of an idle one, and readers
that resume after their instance was killed, on the embedded log.

Usage: node dist/bench/readers.js [options]
  --only <part>     told, idle or resume (all)
  --told <n>        readers of a change (1000)
  --changes <n>     changes that they are told, one at a time (300)
  --idle <n>        idle readers (10000)
  --resume <n>      readers that resume (10000)
  --missed <n>      changes that these have missed (200)

Each instance is a process with a service's HTTP server; PostgreSQL and the capture have theirs, and all readers one
more, which shares the machine: it reads plain sockets and searches what it reads for a text. Times begin before the
statement that commits the change, and end when the last reader has the whole line.`;

const { values } = parseArgs({
  options: {
    help: { type: 'boolean', default: false },
    only: { type: 'string' },
    told: { type: 'string', default: '1000' },
    changes: { type: 'string', default: '300' },
    idle: { type: 'string', default: '10000' },
    resume: { type: 'string', default: '10000' },
    missed: { type: 'string', default: '200' },
  },
});

interface Row {
  readonly what: string;
  readonly goal?: number;
  readonly measured: number;
  readonly unit: string;
}

if (values.help) console.log(help);
else await main();

async function main(): Promise<void> {
  const postgres = await startPostgres();
  const env = { ...process.env, CONGER_POSTGRES: postgres.url, CONGER_KAFKA: '', CONGER_LOG_LEVEL: 'warn' };
  const client = new pg.Client(postgres.url);
  await client.connect();
  const entry = fileURLToPath(new URL('../changefeed/capture/main.js', import.meta.url));
  const capture = fork(entry, [], { env, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  await once(capture, 'message');
  try {
    const parts = { told, idle, resume };
    for (const [name, part] of Object.entries(parts)) {
      if (values.only === undefined || values.only === name) print(await part({ client, env }));
    }
  } finally {
    await client.end();
    await stop(capture);
    await postgres.stop();
  }
}

async function told(store: Store): Promise<Row[]> {
  const [count, changes] = [Number(values.told), Number(values.changes)];
  const one = await measureTold(store, 1, changes, false);
  const rows: Row[] = [
    { what: 'one reader told, p50', measured: one.all.p50, unit: 'ms' },
    { what: 'one reader told, p99', measured: one.all.p99, unit: 'ms' },
  ];
  for (const websocket of [false, true]) {
    const { all, first, allFromArrival, cpu } = await measureTold(store, count, changes, websocket);
    const who = `${count} readers${websocket ? ' (websocket)' : ''}`;
    rows.push(
      { what: `${who}: all told, p50`, goal: 7, measured: all.p50, unit: 'ms' },
      { what: `${who}: all told, p99`, goal: 20, measured: all.p99, unit: 'ms' },
      { what: `${who}: the first told, p50`, measured: first.p50, unit: 'ms' },
      { what: `${who}: from the log's record to all told, p50`, measured: allFromArrival.p50, unit: 'ms' },
      { what: `${who}: the same, p99`, measured: allFromArrival.p99, unit: 'ms' },
      { what: `${who}: the instance's CPU a change, user`, measured: cpu.user, unit: 'ms' },
      { what: `${who}: the same, system`, measured: cpu.system, unit: 'ms' },
    );
  }
  return rows;
}

async function idle(store: Store): Promise<Row[]> {
  const rows: Row[] = [];
  for (const websocket of [false, true]) {
    const { rss, heap } = await measureIdle(store, Number(values.idle), websocket);
    const who = `an idle reader${websocket ? ' (websocket)' : ''}`;
    rows.push(
      { what: `${who}: RSS`, goal: 20, measured: rss / 1024, unit: 'KB' },
      { what: `${who}: heap`, measured: heap / 1024, unit: 'KB' },
    );
  }
  return rows;
}

async function resume(store: Store): Promise<Row[]> {
  const [count, missed] = [Number(values.resume), Number(values.missed)];
  const rows: Row[] = [];
  for (const held of [16_384, Math.floor(missed / 4)]) {
    const { seconds, cpu, finds } = await measureResume(store, count, missed, held);
    const who = `${count} readers resume from ${held > missed ? 'memory' : 'the log'}`;
    rows.push(
      { what: `${who}: all have what they missed`, goal: 10, measured: seconds, unit: 's' },
      { what: `${who}: the instance's CPU`, measured: cpu, unit: 's' },
      { what: `${who}: snapshots read`, goal: count, measured: finds, unit: '' },
    );
  }
  return rows;
}

function print(rows: readonly Row[]): void {
  console.table(
    rows.map(({ what, goal, measured, unit }) => ({
      what,
      goal: goal ?? '',
      measured: Number(measured.toFixed(measured < 100 ? 2 : 0)),
      unit,
      'of the goal': goal === undefined ? '' : (measured / goal).toFixed(2),
    })),
  );
}

async function stop(child: ChildProcess): Promise<void> {
  const exit = once(child, 'exit');
  child.kill('SIGTERM');
  await exit;
}
