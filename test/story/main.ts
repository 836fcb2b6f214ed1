import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { messageOf } from '../../runtime/errors.ts';
import { runStory } from './story.ts';

const help = `Usage: npm run story -- [options]

Runs the story (test/story/story.ts) with many seeds, on one log or both; needs root on Linux.

  --seeds N        how many seeds on each log (default 20)
  --first-seed N   the first of them (default 1); a failed run is repeated with --seeds 1 --first-seed SEED
  --log NAME       embedded, kafka or both (default both)
  --keep-going     carry on after a failure
  --help           this text
`;

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '20' },
    'first-seed': { type: 'string', default: '1' },
    log: { type: 'string', default: 'both' },
    'keep-going': { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  process.stdout.write(help);
  process.exit(0);
}

const first = Number(values['first-seed']);
const logs = values.log === 'both' ? ['embedded', 'kafka'] : [values.log];
let passed = 0;
let failed = 0;
for (const log of logs) {
  for (let seed = first; seed < first + Number(values.seeds); seed++) {
    const home = await mkdtemp(join(tmpdir(), 'conger-story-'));
    const lines: string[] = [];
    const start = Date.now();
    try {
      const report = await runStory({ seed, kafka: log === 'kafka', home, say: (line) => lines.push(line) });
      passed++;
      const faults = report.faults.map(({ name, at }) => `${name}@${at}`).join(' ');
      const counts = `${report.requests} requests, ${report.retries} retries, ${report.changes} changes told, ${report.reconnects} reconnects`;
      console.log(
        `ok   ${log} seed ${seed} in ${((Date.now() - start) / 1000).toFixed(1)} s: ${counts}; killed ${faults}`,
      );
    } catch (error) {
      failed++;
      console.log(
        `FAIL ${log} seed ${seed}: ${messageOf(error)}\n     data and logs: ${home}\n     ${lines.join('\n     ')}`,
      );
      if (!values['keep-going']) break;
    }
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
