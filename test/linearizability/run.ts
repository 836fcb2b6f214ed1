import { appendFile } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf } from '../../runtime/errors.ts';
import { Random } from '../random.ts';
import { until } from '../until.ts';
import { check, type Verdict } from './check.ts';
import { bucket, Client, probeBucket, Recorder } from './client.ts';
import { startCluster } from './cluster.ts';
import { chooseFaults, type NamedFault, needsStandby, type Scene } from './faults.ts';
import { readAtRest } from './final.ts';
import { type Operation, writeHistory } from './history.ts';
import { Keys, work } from './workload.ts';

export interface RunOptions {
  readonly seed: number;
  /** A kind of faults, or one fault by its name (faults.ts). */
  readonly fault: string;
  /** How many faults there are, one after the other or two at once. */
  readonly faults: number;
  /** Where the history, pictures and logs go; it exists and is empty. */
  readonly directory: string;
}

export interface Report {
  /** What was done, in order, as `<name>@<milliseconds>`. */
  readonly faults: readonly string[];
  readonly keys: number;
  readonly operations: number;
  readonly byOutcome: Readonly<Record<string, number>>;
  /** Why the run has failed; empty where it has not. */
  readonly problems: readonly string[];
}

const clientCount = 7;
/** Of these. */
const readers = 2;
/** How long clients may take to get on, on a machine that is busy. */
const patienceMs = 120_000;

/**
 * One run: a cluster, clients that record every operation, faults; then, at rest, reads of every object; and then
 * porcupine's judgement on all of it. What is random follows from the seed; what the scheduler does, does not.
 */
export async function run(options: RunOptions): Promise<Report> {
  const { seed, fault, directory } = options;
  const random = new Random(seed);
  const cluster = await startCluster({ standby: needsStandby(fault), servers: 2, directory });
  const recorder = new Recorder();
  const keys = new Keys();
  const faults: string[] = [];
  try {
    await cluster.servers[0]?.call('createBucket', [
      bucket,
      { index: { writer: { type: 'string' }, number: { type: 'number' } }, options: { version: 1 } },
      {},
    ]);
    await cluster.servers[0]?.call('createBucket', [probeBucket, { index: {} }, {}]);
    const clients = Array.from(
      { length: clientCount },
      (_, i) => new Client(recorder, random.fork(i), cluster.servers),
    );
    const ended = new AbortController();
    const working = clients.map((client, i) =>
      work(client, keys, random.fork(100 + i), ended.signal, i < readers),
    );
    try {
      faults.push(...(await inflict({ cluster, clients }, recorder, random.fork(200), options)));
    } finally {
      ended.abort();
      await Promise.all(working);
      for (const client of clients) client.disconnect();
    }
    recorder.problems.push(...(await readAtRest(cluster, recorder, keys.all, random.fork(300))));
    return await judge(recorder, keys, faults, directory);
  } catch (error) {
    await writeHistory(join(directory, 'history.jsonl'), recorder.history);
    throw error;
  } finally {
    await cluster.stop();
  }
}

/**
 * Breaks things, one after the other and now and then two at once. Before, between and after, the clients get on
 * undisturbed for a while; that they do is part of the test.
 */
async function inflict(
  scene: Scene,
  recorder: Recorder,
  random: Random,
  { fault: kind, faults: count, directory }: RunOptions,
): Promise<string[]> {
  const began = performance.now();
  const done: string[] = [];
  const note = async (line: string) => {
    await appendFile(join(directory, 'faults.log'), `${Math.round(performance.now() - began)} ms ${line}\n`);
  };
  const undisturbed = async () => {
    const wanted = recorder.answered + 60 + random.below(240);
    await until('clients get on', async () => recorder.answered >= wanted, patienceMs);
  };
  const inject = async ({ name, run: inflicted }: NamedFault, choices: Random) => {
    done.push(`${name}@${Math.round(performance.now() - began)}`);
    await note(`begins: ${name}`);
    await inflicted(scene, choices).catch((error: unknown) => {
      throw new Error(`fault ${name}: ${messageOf(error)}`, { cause: error });
    });
    await note(`ends: ${name}`);
  };
  await undisturbed();
  for (let i = 0; i < count; i++) {
    const together = await Promise.allSettled(
      chooseFaults(kind, random).map((fault, n) => inject(fault, random.fork(2 * i + n))),
    );
    for (const result of together) if (result.status === 'rejected') throw result.reason;
    await undisturbed();
  }
  // Where machines are slow a run does little in the time that faults take.
  await until('much has succeeded', async () => tooLittle(recorder.history).length === 0, patienceMs);
  return done;
}

async function judge(
  recorder: Recorder,
  keys: Keys,
  faults: readonly string[],
  directory: string,
): Promise<Report> {
  const { history } = recorder;
  const path = join(directory, 'history.jsonl');
  await writeHistory(path, history);
  const verdicts = await check(path, directory, { seconds: 180 });
  const missing = keys.all.size - verdicts.length;
  const byOutcome: Record<string, number> = {};
  for (const { outcome } of history) byOutcome[outcome] = (byOutcome[outcome] ?? 0) + 1;
  const problems = [
    ...recorder.problems,
    ...verdicts.filter(({ verdict }) => verdict !== 'ok').map(describe),
    ...(missing > 0 ? [`${missing} objects are not in the history`] : []),
    ...tooLittle(history),
  ];
  return { faults, keys: keys.all.size, operations: history.length, byOutcome, problems };
}

function describe({ key, operations, unknown, verdict, picture }: Verdict): string {
  const what = verdict === 'illegal' ? 'is not linearizable' : 'was not decided in time';
  return `${key} ${what} (${operations} operations, ${unknown} unknown)${picture ? `: ${picture}` : ''}`;
}

/** A run in which little succeeded shows nothing. */
function tooLittle(history: readonly Operation[]): string[] {
  const done = (op: Operation['op'], condition?: Operation['check']) =>
    history.filter(
      (o) => o.op === op && o.outcome === 'ok' && (condition === undefined || o.check === condition),
    );
  const counts = {
    gets: done('get').length,
    puts: done('put', 'any').length,
    updates: done('put', 'etag').length,
    creates: done('put', 'none').length,
    deletes: done('delete').length,
    conflicts: history.filter(({ outcome }) => outcome === 'conflict').length,
  };
  return Object.entries(counts)
    .filter(([, count]) => count < 10)
    .map(([name, count]) => `only ${count} ${name} have succeeded`);
}
