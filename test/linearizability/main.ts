import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { messageOf } from '../../runtime/errors.ts';
import { buildChecker } from './check.ts';
import { kinds } from './faults.ts';
import { type Report, run } from './run.ts';

/** The words in lines of one width, below each other in the help. */
function list(words: readonly string[]): string {
  const lines = [''];
  for (const word of words) {
    if (`${lines.at(-1)} ${word}`.length > 80) lines.push('');
    lines.push(`${lines.pop()} ${word}`.trim());
  }
  return lines.join(`\n${' '.repeat(19)}`);
}

const help = `Usage: npm run linearizability -- [options]

Runs clients against kvstore servers while things break, and checks with porcupine that what the clients saw is
linearizable. Every run has a cluster of its own.

  --seeds N        how many seeds (default 10)
  --first-seed N   the first of them (default 1); a failed run is repeated with --seeds 1 --first-seed SEED
  --fault KIND     a kind of faults (default all: everything that needs no standby), or one by its name:
                   ${list(kinds)}
  --faults N       how many faults a run has (default 8)
  --keep DIR       where a failed run leaves its history, pictures and logs (default: a new directory)
  --stop           stop after the first failure
  --help           this text
`;

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '10' },
    'first-seed': { type: 'string', default: '1' },
    fault: { type: 'string', default: 'all' },
    faults: { type: 'string', default: '8' },
    keep: { type: 'string' },
    stop: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  process.stdout.write(help);
  process.exit(0);
}

const { fault } = values;
const [seeds, first, faults] = [values.seeds, values['first-seed'], values.faults].map(Number);
if (![seeds, first, faults].every(Number.isInteger) || !kinds.includes(fault)) {
  process.stderr.write(help);
  process.exit(2);
}

function counts({ operations, keys, byOutcome, faults }: Report): string {
  const outcomes = Object.entries(byOutcome).map(([outcome, count]) => `${count} ${outcome}`);
  return `${operations} operations on ${keys} objects (${outcomes.join(', ')}); ${faults.join(' ')}`;
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));

await buildChecker((line) => console.log(line));
const keep = values.keep ?? (await mkdtemp(join(tmpdir(), 'conger-linearizability-')));
let passed = 0;
let operations = 0;
const failed: number[] = [];
for (let seed = first ?? 1; seed < (first ?? 1) + (seeds ?? 0); seed++) {
  const directory = join(keep, `${fault}-${seed}`);
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory, { recursive: true });
  const start = performance.now();
  const took = () => `in ${((performance.now() - start) / 1000).toFixed(1)} s`;
  let problems: readonly string[];
  try {
    const report = await run({ seed, fault, faults: faults ?? 0, directory });
    operations += report.operations;
    problems = report.problems;
    console.log(
      `${problems.length === 0 ? 'ok  ' : 'FAIL'} ${fault} seed ${seed} ${took()}: ${counts(report)}`,
    );
  } catch (error) {
    problems = [messageOf(error)];
    console.log(`FAIL ${fault} seed ${seed} ${took()}`);
    await writeFile(join(directory, 'error.txt'), String(error instanceof Error ? error.stack : error));
  }
  if (problems.length === 0) {
    passed++;
    await rm(directory, { recursive: true, force: true });
    continue;
  }
  failed.push(seed);
  console.log(`     history, pictures and logs: ${directory}`);
  for (const problem of problems.slice(0, 10)) console.log(`     ${problem}`);
  if (problems.length > 10) console.log(`     and ${problems.length - 10} more`);
  if (values.stop) break;
}
if (failed.length === 0 && values.keep === undefined) await rm(keep, { recursive: true, force: true });
const again = failed.length === 0 ? '' : `; failed seeds: ${failed.join(' ')}`;
console.log(`${passed} passed, ${failed.length} failed, ${operations} operations${again}`);
process.exit(failed.length === 0 ? 0 : 1);
