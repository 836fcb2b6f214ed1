import { parseArgs } from 'node:util';
import { type Backlog, measureBacklog } from './feed/backlog.ts';
import type { Cost } from './feed/cost.ts';
import { measureLatency } from './feed/latency.ts';
import { available, type LogName, stopBroker } from './feed/machine.ts';
import { clientNames, measurePuts } from './feed/puts.ts';
import { quantile } from './quantile.ts';

const parts = ['backlog', 'puts', 'latency'] as const;
const logs: readonly LogName[] = ['embedded', 'Kafka'];

const help = `Usage: npm run bench:feed -- [options]

Measures the changefeed on both logs, with changes of 1 KB: how fast the capture works a backlog off, what a running
capture costs puts, and how long a change takes to a consumer in another process. PostgreSQL, broker, capture, consumer
and load share the machine. Figures are medians of several runs; processor time is what stays comparable when something
else runs. The tables are Markdown.

  --part PART      backlog, puts or latency (default: all)
  --log LOG        embedded or Kafka (default: both; Kafka where Java and Maven are)
  --runs N         how many runs, and rounds of puts with and without capture (default 5)
  --changes N      changes in a backlog (default 500000)
  --seconds N      how long each round of puts, and each run of latency, takes (default 10)
  --help           this text
`;

const { values } = parseArgs({
  options: {
    part: { type: 'string' },
    log: { type: 'string' },
    runs: { type: 'string', default: '5' },
    changes: { type: 'string', default: '500000' },
    seconds: { type: 'string', default: '10' },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  process.stdout.write(help);
  process.exit(0);
}
const wantedParts = parts.filter((part) => values.part === undefined || values.part === part);
const wantedLogs = logs.filter((log) => values.log === undefined || values.log === log);
const [runs = 0, changes = 0, seconds = 0] = [values.runs, values.changes, values.seconds].map(Number);
const counts = [runs, changes, seconds].every((n) => Number.isInteger(n) && n > 0);
if (!counts || wantedParts.length === 0 || wantedLogs.length === 0) {
  process.stderr.write(help);
  process.exit(2);
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));

type Row = Readonly<Record<string, string>>;

function print(rows: readonly Row[]): void {
  const columns = Object.keys(rows[0] ?? {});
  const lines = [columns, columns.map(() => '---'), ...rows.map((row) => columns.map((name) => row[name]))];
  console.log(`\n${lines.map((line) => `| ${line.join(' | ')} |`).join('\n')}\n`);
}

function median(numbers: readonly number[]): number {
  return quantile(
    numbers.toSorted((a, b) => a - b),
    0.5,
  );
}

function spread(numbers: readonly number[], digits = 0): string {
  const texts = [Math.min(...numbers), Math.max(...numbers)].map((n) => format(n, digits));
  return texts.join(' to ');
}

function format(n: number, digits = 0): string {
  return n.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function costs(each: readonly Cost[]): Row {
  const of = (name: keyof Cost) => format(median(each.map((cost) => cost[name])), 1);
  return {
    'capture µs': of('capture'),
    'walsender µs': of('walsender'),
    'writer in PostgreSQL, or broker µs': of('log'),
    'rest of PostgreSQL µs': of('others'),
  };
}

async function backlog(log: LogName): Promise<Row> {
  const found: Backlog[] = [];
  for (let run = 0; run < runs; run++) found.push(await measureBacklog(log, changes));
  const speeds = found.map(({ perSecond }) => perSecond);
  const goal = log === 'embedded' ? 50_000 : 40_000;
  return {
    log,
    'goal, changes/s': format(goal),
    'measured, changes/s': format(median(speeds)),
    'of goal': format(median(speeds) / goal, 2),
    'least to most': spread(speeds),
    ...costs(found.map(({ cost }) => cost)),
  };
}

async function puts(log: LogName): Promise<Row[]> {
  const rows = [];
  for (const client of clientNames) {
    const found = await measurePuts(log, client, runs, seconds);
    const percents = found.map(({ without, withCapture }) => (1 - withCapture / without) * 100);
    rows.push({
      log,
      client,
      'puts/s without': format(median(found.map(({ without }) => without))),
      'with capture': format(median(found.map(({ withCapture }) => withCapture))),
      'goal, cost %': '10',
      'cost %': format(median(percents), 1),
      'least to most %': spread(percents, 1),
      'captured meanwhile %': format(median(found.map(({ kept }) => kept)) * 100),
      ...costs(found.map(({ cost }) => cost)),
      'kvstore µs': format(median(found.map(({ server }) => server)), 1),
      'load µs': format(median(found.map((round) => round.client)), 1),
    });
  }
  return rows;
}

async function latency(log: LogName): Promise<Row> {
  const found: number[][] = [];
  for (let run = 0; run < runs; run++) found.push(await measureLatency(log, seconds));
  const [p50s, p99s] = [0.5, 0.99].map((q) => found.map((latencies) => quantile(latencies, q)));
  const [p50, p99] = [median(p50s ?? []), median(p99s ?? [])];
  const goal = log === 'embedded' ? { p50: 3, p99: 15 } : { p50: 5, p99: 20 };
  return {
    log,
    'goal p50, p99 ms': `${goal.p50}, ${goal.p99}`,
    'p50 ms': format(p50, 1),
    'p99 ms': format(p99, 1),
    'of goal': `${format(p50 / goal.p50, 2)}, ${format(p99 / goal.p99, 2)}`,
    'p99 least to most ms': spread(p99s ?? [], 1),
  };
}

async function each(what: string, measure: (log: LogName) => Promise<Row | Row[]>): Promise<void> {
  const rows = [];
  for (const log of wantedLogs) {
    if (await available(log)) rows.push(await measure(log));
    else console.log(`${log} cannot be measured here`);
  }
  console.log(what);
  print(rows.flat());
}

try {
  if (wantedParts.includes('backlog'))
    await each(
      `A backlog of ${format(changes)} changes, captured and appended (processor time a change)`,
      backlog,
    );
  if (wantedParts.includes('puts'))
    await each('Puts at concurrency 64, with and without a running capture (processor time a put)', puts);
  if (wantedParts.includes('latency'))
    await each('From a statement that writes a change to a consumer in another process', latency);
} finally {
  await stopBroker();
}
