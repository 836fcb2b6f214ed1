import { readdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { spawnKvstore } from '../fixtures/kvstore.ts';
import { startPostgres } from '../fixtures/postgres.ts';
import { type FileResult, runFile } from './run-file.ts';
import { prepareWorkplace } from './workplace.ts';

const usage = `Runs TritonDataCenter/moray-test-suite, unmodified, against kvstore: the npm client \`moray\`, its programs and
bare requests.

  npm run conformance:moray -- DIR [options]

  DIR                       a checkout of the suite; it is only read
  --server tcp://HOST:PORT  a running kvstore with \`sql\` allowed (npm start -- --sql); without it one is started,
                            on a PostgreSQL of its own
  --only FILE               this file of DIR/test only, for example listen.test.js; may be repeated
  --timeout SECONDS         how long a file may take (300)
  --verbose                 show the output of files that failed
  --help

Ends with status 1 where an assertion failed, or a file ended otherwise than well.`;

async function startServer(): Promise<{ url: string; stop(): Promise<void> }> {
  process.env.CONGER_SQL = 'true';
  const postgres = await startPostgres();
  try {
    const kvstore = await spawnKvstore(postgres.url);
    const stop = async () => {
      await kvstore.stop();
      await postgres.stop();
    };
    return { url: kvstore.url, stop };
  } catch (error) {
    await postgres.stop();
    throw error;
  }
}

async function filesOf(suite: string, only: readonly string[] | undefined): Promise<readonly string[]> {
  const all = (await readdir(join(suite, 'test'))).filter((name) => name.endsWith('.test.js')).sort();
  for (const name of only ?? []) {
    if (!all.includes(name)) throw new Error(`${suite}/test has no ${name}`);
  }
  return only ?? all;
}

function rowOf({ file, passed, failures, skipped, seconds }: FileResult) {
  return { file, passed, failed: failures.length, skipped, seconds: Math.round(seconds) };
}

/** Prints the results, and answers how many assertions failed. */
function report(results: readonly FileResult[]): number {
  const rows = results.map(rowOf);
  const total = { file: 'total', passed: 0, failed: 0, skipped: 0, seconds: 0 };
  for (const row of rows) {
    for (const key of ['passed', 'failed', 'skipped', 'seconds'] as const) total[key] += row[key];
  }
  console.table([...rows, total]);
  for (const { file, failures } of results) {
    for (const failure of failures) console.log(`FAILED ${file}: ${failure}`);
  }
  return total.failed;
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      server: { type: 'string' },
      only: { type: 'string', multiple: true },
      timeout: { type: 'string', default: '300' },
      verbose: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  const [directory] = positionals;
  const timeoutMs = Number(values.timeout) * 1000;
  if (values.help || directory === undefined || positionals.length > 1 || !(timeoutMs > 0)) {
    (values.help ? console.log : console.error)(usage);
    return values.help ? 0 : 2;
  }
  const suite = resolve(directory);
  const files = await filesOf(suite, values.only);

  const interrupted = new AbortController();
  process.once('SIGINT', () => interrupted.abort());
  process.once('SIGTERM', () => interrupted.abort());
  console.log('installing what the suite needs ...');
  const workplace = await prepareWorkplace(suite);
  let started: Awaited<ReturnType<typeof startServer>> | undefined;
  const results: FileResult[] = [];
  try {
    if (values.server === undefined) started = await startServer();
    const server = values.server ?? started?.url ?? '';
    for (const file of files) {
      if (interrupted.signal.aborted) break;
      process.stdout.write(`${file} ... `);
      const result = await runFile(workplace.directory, file, server, timeoutMs, interrupted.signal);
      results.push(result);
      const { passed, failed, skipped, seconds } = rowOf(result);
      console.log(`${passed} passed, ${failed} failed, ${skipped} skipped, ${seconds} s`);
      if (values.verbose && failed > 0) console.log(result.output);
    }
  } finally {
    await started?.stop();
    await workplace.remove();
  }
  return report(results) > 0 || interrupted.signal.aborted ? 1 : 0;
}

process.exitCode = await main();
