import { parseArgs } from 'node:util';
import { addToCorpus, readCorpus } from './corpus.ts';
import { fuzz } from './fuzzer.ts';
import type { Target } from './target.ts';
import { targets } from './targets/index.ts';

const help = `Usage: npm run fuzz -- [options]

Tries inputs on what reads what others send, guided by the code that they reach, and stops at the first that breaks it.

  --target NAME   ${Object.keys(targets).join(', ')} or all (default all)
  --minutes N     how long for each target (default 10)
  --seed N        what the inputs follow from (default 1)
  --keep          add what reaches new code to test/fuzz/corpus/
  --help          this text

What fails is added to test/fuzz/corpus/ in any case, made as small as it goes.
`;

/** Heap that may be gained between the warm start and the end: the inputs kept, compiled code, and no more. */
const leakBytes = 16 * 1024 * 1024;

const { values } = parseArgs({
  options: {
    target: { type: 'string', default: 'all' },
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: '1' },
    keep: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

/** Whether all was well. */
async function run(target: Target): Promise<boolean> {
  const { name, notation } = target;
  const corpus = await readCorpus(name);
  const until = performance.now() + Number(values.minutes) * 60_000;
  const more = () => performance.now() < until;
  const report = await fuzz({ target, corpus, seed: Number(values.seed), more, guided: true });
  const { executions, reached, found, failure, heap } = report;
  const mb = (bytes: number) => (bytes / 1024 / 1024).toFixed(1);
  console.log(
    `${name}: ${executions} executions; ${found.length} inputs beyond the ${corpus.length} of the corpus, ` +
      `${reached[0]} -> ${reached[1]} characters of source reached; ` +
      `heap ${heap === undefined ? 'not measured' : `${mb(heap[0])} -> ${mb(heap[1])} MB`}`,
  );
  if (values.keep) for (const input of found) await addToCorpus(name, '', notation, input);
  if (failure !== undefined) {
    console.log(`  FAIL ${await addToCorpus(name, 'failed-', notation, failure.input)}`);
    console.log(failure.error);
    await target.close().catch(() => {});
    return false;
  }
  await target.close();
  if (heap === undefined || heap[1] - heap[0] < leakBytes) return true;
  console.log('  FAIL the heap has grown');
  return false;
}

if (values.help) {
  process.stdout.write(help);
} else {
  const chosen = Object.entries(targets).filter(([name]) => ['all', name].includes(values.target));
  if (chosen.length === 0) throw new Error(`there is no target ${values.target}; see --help`);
  let ok = true;
  for (const [, target] of chosen) ok = (await run(target)) && ok;
  process.exitCode = ok ? 0 : 1;
}
