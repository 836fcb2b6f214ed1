import { appendFile, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf } from '../../runtime/errors.ts';
import { Random } from '../random.ts';
import { until } from '../until.ts';
import { check, type Violation } from './checker.ts';
import { type Cluster, partitions, startCluster } from './cluster.ts';
import { faultsOf } from './faults.ts';
import type { Fixtures } from './fixtures.ts';
import type { History, Logged, Stream } from './history.ts';
import { Listener } from './listener.ts';
import { patienceMs } from './patience.ts';
import { plansOf } from './plans.ts';
import { readApplied, readLog, readStore } from './read.ts';
import type { Scenario } from './scenarios.ts';
import { isMark, Writers } from './writers.ts';

export interface RunOptions {
  readonly seed: number;
  readonly scenario: Scenario;
  readonly fixtures: Fixtures;
  /** For logs, and for the history of a run that has failed; it exists and is empty. */
  readonly directory: string;
}

export interface Report {
  readonly violations: readonly Violation[];
  readonly faults: readonly string[];
  /** Names of the failpoints that were passed. */
  readonly passed: ReadonlySet<string>;
  readonly writes: Readonly<Record<string, number>>;
  readonly changes: number;
  readonly streams: number;
  readonly lives: number;
}

const writerCount = 4;

let serial = 0;

/**
 * One run: a cluster, writers, listeners and consumers, and what goes wrong; then everything is made whole, everyone
 * gets to the end, and the whole history is checked. What is random follows from the seed; what the scheduler does,
 * does not.
 */
export async function run({ seed, scenario, fixtures, directory }: RunOptions): Promise<Report> {
  const random = new Random(seed);
  const cluster = await startCluster({
    fixtures,
    name: `chaos_${process.pid}_${++serial}`,
    services: scenario.services ?? 2,
    directory,
    plans: (kind, name) =>
      scenario.plans === undefined ? plansOf(fixtures.log, kind, name, random) : (scenario.plans[kind] ?? []),
    random: random.fork(1),
  });
  const listeners: Listener[] = [];
  const working = new AbortController();
  try {
    const writers = new Writers(cluster.kv, scenario.padding);
    const listen = (name: string, kind: Stream['kind'], more = {}) => {
      const listener = new Listener({
        name,
        kind,
        urls: cluster.urls,
        random: random.fork(20 + listeners.length),
        ...more,
      });
      listeners.push(listener);
      return listener;
    };
    // Whoever was told of a gap goes on with a snapshot.
    const kind = scenario.gaps === true ? 'snapshot' : 'follow';
    const reads = scenario.reads === true ? { reads: cluster.kv } : {};
    const followers = [
      listen('follower', kind, reads),
      listen('restless follower', kind, { restless: true }),
    ];
    const idle = listen('idle', 'idle');
    await Promise.all([...followers, idle].map((listener) => listener.begun()));

    const began = performance.now();
    const faults: string[] = [];
    const note = async (line: string) => {
      await appendFile(
        join(directory, 'faults.log'),
        `${Math.round(performance.now() - began)} ms ${line}\n`,
      );
    };
    const work = Array.from({ length: writerCount }, (_, i) =>
      writers.work(i, random.fork(10 + i), working.signal),
    );
    const choices = random.fork(2);
    const undisturbed = async () => {
      const wanted = writers.answered + 40 + choices.below(150);
      const answered = async () => {
        if (writers.answered < wanted) throw new Error(`${writers.answered} of ${wanted}`);
        return true;
      };
      await until('the writers get on', answered, patienceMs);
    };
    await undisturbed();
    const kinds = faultsOf(scenario.faults, fixtures.log);
    for (let i = 0; i < scenario.count; i++) {
      if (kinds.length > 0) {
        const fault = choices.pick(kinds);
        faults.push(fault.name);
        await note(`begins: ${fault.name}`);
        await fault.run(cluster, random.fork(100 + i)).catch((error: unknown) => {
          throw new Error(`fault ${fault.name}: ${messageOf(error)}`, { cause: error });
        });
        await note(`ends: ${fault.name}`);
      }
      listen(`snapshot ${i}`, 'snapshot', { restless: choices.below(2) === 0 });
      await undisturbed();
    }
    working.abort();
    await Promise.all(work);
    await note('the writers have ended');
    await cluster.heal();
    await writers.mark(partitions);
    listen('late snapshot', 'snapshot');
    const places = scenario.gaps === true ? [] : followers.flatMap(({ places }) => places);
    for (let i = 0; i < 4 && places.length > 0; i++) {
      listen(`replay ${i}`, 'replay', { since: choices.pick(places) });
    }

    const log = await readWholeLog(cluster);
    const ends = log.map((entries) => entries.at(-1)?.position ?? '');
    const settled = await settle(cluster, listeners, ends);
    await note(settled ? 'everyone is at the end' : 'not everyone is at the end');
    await Promise.all(listeners.map((listener) => listener.stop()));
    const history: History = {
      writes: writers.writes,
      log,
      store: await eventually('the store is read', () => readStore(cluster)),
      applied: await eventually('the ledger is read', () => readApplied(cluster)),
      streams: listeners.flatMap((listener) => listener.streams),
    };
    const violations = check(history, { gaps: scenario.gaps === true });
    if (violations.length > 0) await writeFile(join(directory, 'history.json'), JSON.stringify(history));
    const { passed, injected } = await readTraces(directory);
    return {
      violations,
      faults: [...faults, ...injected],
      passed,
      writes: count(history.writes.map(({ outcome }) => outcome)),
      changes: log.flat().length,
      streams: history.streams.length,
      lives: cluster.processes.reduce((sum, { lives }) => sum + lives, 0),
    };
  } finally {
    working.abort();
    await Promise.all(listeners.map((listener) => listener.stop()));
    await cluster.stop();
  }
}

/** Reads the log once it holds the marks, which come after all else; or as it is, where they do not come. */
async function readWholeLog(cluster: Cluster): Promise<Logged[][]> {
  let log: Logged[][] = [];
  const whole = async () => {
    log = await readLog(cluster);
    return log.every((entries) => isMark(entries.at(-1)?.key ?? ''));
  };
  await until('the log holds the marks', whole, patienceMs).catch((error: unknown) => {
    if (log.length === 0) throw error;
  });
  return log;
}

/** Reads again where something that was broken has not come back yet. */
async function eventually<T>(what: string, read: () => Promise<T>): Promise<T> {
  const found: T[] = [];
  await until(what, async () => found.push(await read()) > 0, patienceMs);
  return found[0]!;
}

/** Waits until everyone has seen everything; answers whether that was so in time. What is missing, the checker says. */
async function settle(
  cluster: Cluster,
  listeners: readonly Listener[],
  ends: readonly string[],
): Promise<boolean> {
  const atEnd = (positions: readonly string[]) =>
    ends.every((end, partition) => (positions[partition] ?? '') >= end);
  const allThere = async () => {
    if (!listeners.every((listener) => listener.refused || atEnd(listener.positions))) return false;
    const applied = await readApplied(cluster);
    return atEnd(applied.map((told) => told.at(-1)?.position ?? ''));
  };
  return until('everyone is at the end', allThere, patienceMs).then(
    () => true,
    () => false,
  );
}

/** Which failpoints the processes passed, and what happened there. */
async function readTraces(directory: string): Promise<{ passed: Set<string>; injected: string[] }> {
  const passed = new Set<string>();
  const injected: string[] = [];
  for (const file of (await readdir(directory)).filter((name) => name.endsWith('.trace'))) {
    for (const line of (await readFile(join(directory, file), 'utf8')).split('\n').filter(Boolean)) {
      const [name, action] = line.split(' ');
      if (action === undefined) passed.add(line);
      else injected.push(`${file.replace('.trace', '')}:${name}=${action}`);
    }
  }
  return { passed, injected };
}

function count(words: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const word of words) counts[word] = (counts[word] ?? 0) + 1;
  return counts;
}
