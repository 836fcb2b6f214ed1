import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { messageOf } from '../../runtime/errors.ts';
import { failpoints } from '../../runtime/failpoint-names.ts';
import { type Fixtures, type Shape, startFixtures } from './fixtures.ts';
import { knownFailures } from './known-failures.ts';
import { failpointsOf, type Log } from './plans.ts';
import { type Report, run } from './run.ts';
import { type Scenario, scenarios } from './scenarios.ts';
import { missingForDisks } from './small-disk.ts';

const help = `Usage: npm run chaos -- [options]

Writes, consumes and listens while things break, and checks that every change comes to everyone once, in order and whole.

  --seeds N        how many seeds on each log (default 10)
  --first-seed N   the first of them (default 1); a failed run is repeated with --seeds 1 --first-seed SEED
  --log NAME       embedded, kafka or both (default both)
  --brokers N      1 or 3 brokers of Kafka (default 1; scenarios that need 3 have them)
  --jobs N         how many seeds run at a time, each on a PostgreSQL (and brokers) of its own (default 1)
  --scenario NAME  what goes wrong (default any; all: every scenario with each seed)
  --keep DIR       where a failed run leaves its history, logs and database (default: a new directory)
  --stop           stop after the first failure
  --coverage       fail where a failpoint was never passed
  --list           the scenarios, the failpoints, and where known failures of others are tested
  --help           this text
`;

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '10' },
    'first-seed': { type: 'string', default: '1' },
    log: { type: 'string', default: 'both' },
    brokers: { type: 'string', default: '1' },
    jobs: { type: 'string', default: '1' },
    scenario: { type: 'string', default: 'any' },
    keep: { type: 'string' },
    stop: { type: 'boolean', default: false },
    coverage: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  process.stdout.write(help);
  process.exit(0);
}
if (values.list) {
  for (const { name, what } of scenarios) console.log(`${name.padEnd(16)} ${what}`);
  console.log(`\n${Object.keys(failpoints).length} failpoints:`);
  for (const [name, what] of Object.entries(failpoints)) console.log(`${name.padEnd(30)} ${what}`);
  console.log('\nfailures that others have had, and where they are tested:');
  for (const { failure, scenarios: of = [], tests = [] } of knownFailures) {
    console.log(`${failure}\n    ${[...of.map((name) => `scenario ${name}`), ...tests].join(', ')}`);
  }
  process.exit(0);
}
const chosen = scenarios.filter(({ name }) => values.scenario === 'all' || name === values.scenario);
const logs: readonly Log[] = (['embedded', 'kafka'] as const).filter((log) =>
  ['both', log].includes(values.log),
);
const [seeds, first, jobs] = [values.seeds, values['first-seed'], values.jobs].map(Number) as [
  number,
  number,
  number,
];
if (chosen.length === 0 || logs.length === 0 || ![seeds, first, jobs].every(Number.isInteger) || jobs < 1) {
  process.stderr.write(help);
  process.exit(2);
}

function counts({ writes, changes, streams, faults, lives }: Report): string {
  const outcomes = Object.entries(writes).map(([outcome, count]) => `${count} ${outcome}`);
  return `${changes} changes (writes: ${outcomes.join(', ')}), ${streams} connections, ${lives} lives; ${faults.join(' ')}`;
}

// Each process of a run ends with this one.
process.setMaxListeners(0);
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));

const keep = values.keep ?? (await mkdtemp(join(tmpdir(), 'conger-chaos-')));
const failed: string[] = [];
const passed = new Map<Log, Set<string>>(logs.map((log) => [log, new Set()]));
let good = 0;
let changes = 0;
let faults = 0;

/** Runs one seed; answers whether it kept every promise, and whether it ended in the middle, so that others may suffer. */
async function one(
  fixtures: Fixtures,
  scenario: Scenario,
  seed: number,
): Promise<{ kept: boolean; broken: boolean }> {
  const { log } = fixtures;
  const title = `${log} seed ${seed} (${scenario.name})`;
  const directory = join(keep, `${log}-${scenario.name}-${seed}`);
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory, { recursive: true });
  const start = performance.now();
  const took = () => `in ${((performance.now() - start) / 1000).toFixed(1)} s`;
  let problems: string[];
  let said: string;
  let broken = false;
  try {
    const report = await run({ seed, scenario, fixtures, directory });
    changes += report.changes;
    faults += report.faults.length;
    for (const name of report.passed) passed.get(log)?.add(name);
    problems = report.violations.map(({ property, observer, text }) => `${property}: ${observer} ${text}`);
    said = `${problems.length === 0 ? 'ok  ' : 'FAIL'} ${title} ${took()}: ${counts(report)}`;
  } catch (error) {
    problems = [messageOf(error)];
    broken = true;
    said = `FAIL ${title} ${took()}`;
    await writeFile(join(directory, 'error.txt'), String(error instanceof Error ? error.stack : error));
  }
  if (problems.length === 0) {
    good++;
    console.log(said);
    await rm(directory, { recursive: true, force: true });
    return { kept: true, broken };
  }
  failed.push(`${log} ${scenario.name} ${seed}`);
  const kept = fixtures.keep(join(directory, 'database'));
  const lines = [await kept.then(() => `history, logs and database: ${directory}`, messageOf)];
  lines.push(...problems.slice(0, 10));
  if (problems.length > 10) lines.push(`and ${problems.length - 10} more`);
  // At once, since other seeds run meanwhile.
  console.log([said, ...lines].join('\n     '));
  return { kept: false, broken };
}

/** The scenarios on a log, by what stands under them. */
function byShape(log: Log): readonly { readonly shape: Shape; readonly of: readonly Scenario[] }[] {
  const shapes = new Map<string, { shape: Shape; of: Scenario[] }>();
  for (const scenario of chosen.filter((one) => one.log === undefined || one.log === log)) {
    const brokers = values.brokers === '3' ? 3 : scenario.brokers;
    const shape: Shape = {
      log,
      ...(brokers === undefined || log === 'embedded' ? {} : { brokers }),
      ...(scenario.disks === undefined ? {} : { disks: scenario.disks }),
      ...(scenario.standby === undefined ? {} : { standby: scenario.standby }),
    };
    const key = JSON.stringify(shape);
    const entry = shapes.get(key) ?? { shape, of: [] };
    shapes.set(key, entry);
    entry.of.push(scenario);
  }
  return [...shapes.values()];
}

/** Takes runs from `due` until there are none, on fixtures of its own. */
async function work(shape: Shape, due: { readonly scenario: Scenario; readonly seed: number }[]) {
  let fixtures = await startFixtures(shape);
  try {
    for (let next = due.shift(); next !== undefined; next = due.shift()) {
      const { kept, broken } = await one(fixtures, next.scenario, next.seed);
      if (!kept && values.stop) due.length = 0;
      if (!broken || due.length === 0) continue;
      await fixtures.stop();
      fixtures = await startFixtures(shape);
    }
  } finally {
    due.length = 0;
    await fixtures.stop();
  }
}

for (const { shape, of } of logs.flatMap(byShape)) {
  const missing = shape.disks === true ? missingForDisks() : undefined;
  if (missing !== undefined) {
    console.log(`skip ${shape.log} (${of.map(({ name }) => name).join(', ')}): ${missing}`);
    continue;
  }
  const due = of.flatMap((scenario) =>
    Array.from({ length: seeds }, (_, n) => ({ scenario, seed: first + n })),
  );
  const workers = await Promise.allSettled(
    Array.from({ length: Math.min(jobs, due.length) }, () => work(shape, due)),
  );
  for (const worker of workers) if (worker.status === 'rejected') throw worker.reason;
  if (failed.length > 0 && values.stop) break;
}
if (failed.length === 0 && values.keep === undefined) await rm(keep, { recursive: true, force: true });
let uncovered = 0;
for (const log of logs) {
  const missing = failpointsOf(log).filter((name) => passed.get(log)?.has(name) !== true);
  uncovered += missing.length;
  const all = failpointsOf(log).length;
  console.log(
    `${log}: ${all - missing.length} of ${all} failpoints passed${missing.length === 0 ? '' : `, never: ${missing.join(' ')}`}`,
  );
}
const again = failed.length === 0 ? '' : `; failed seeds: ${failed.join(', ')}`;
console.log(`${good} passed, ${failed.length} failed; ${changes} changes, ${faults} faults${again}`);
process.exit(failed.length === 0 && !(values.coverage && uncovered > 0) ? 0 : 1);
