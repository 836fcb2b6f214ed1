import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import type { KvObject } from '../../kvstore/types.ts';
import { isCongerError } from '../../runtime/errors.ts';
import { silentLogger } from '../../runtime/log.ts';
import { type Broadcast, startBroadcast } from '../broadcast.ts';
import { type Road, startRoad, type TestProcess } from '../testing/road.ts';
import type { Change } from '../types.ts';
import { Cohorts } from './cohort.ts';
import type { FeedCursor } from './cursor.ts';
import { openFeed } from './feed.ts';

interface Counter {
  readonly owner: string;
  readonly n: number;
}

const keys = Array.from({ length: 24 }, (_, i) => `counter${i}`);
/** Several counters are one owner's, and so in one partition. */
const ownerOf = (key: string) => `owner${Number(key.slice('counter'.length)) % 9}`;
let road: Road;
interface Instance {
  readonly process: TestProcess;
  readonly broadcast: Broadcast;
  readonly cohorts: Cohorts<Change<Counter>>;
}

const instances: Instance[] = [];
const select = (change: Change) => (change.bucket === 'counters' ? (change as Change<Counter>) : undefined);

beforeAll(async () => {
  road = await startRoad(4);
  await road.kv.ensureBucket('counters', {
    index: { owner: { type: 'string' } },
    options: { version: 1, partition: 'owner' },
  });
  for (let i = 0; i < 2; i++) {
    const process = await road.process();
    // The second one holds little: who resumes there reads the log first.
    const limits = i === 0 ? {} : { maxChanges: 100, tail: 5 };
    instances.push({
      process,
      broadcast: await startBroadcast({ reader: process.reader, log: silentLogger(), ...limits }),
      cohorts: new Cohorts(select),
    });
  }
});

afterAll(async () => {
  for (const { broadcast, process } of instances) {
    await broadcast.stop();
    await process.close();
  }
  await road.close();
});

function pick(): Instance {
  const instance = instances[Math.floor(Math.random() * instances.length)];
  if (instance === undefined) throw new Error('no instance');
  return instance;
}

/**
 * Follows the counters: a snapshot from some instance, then the stream, cut off now and then and resumed elsewhere.
 * Every counter must go up by exactly one with each event: a repeated, lost or reordered change would show.
 */
function follow(
  until: (state: ReadonlyMap<string, number>) => boolean,
): Promise<ReadonlyMap<string, number>> {
  const state = new Map<string, number>();
  let since: FeedCursor | undefined;
  let started = false;
  const session = async (): Promise<boolean> => {
    const { process, broadcast, cohorts } = pick();
    // Its connection may be the one that was cut.
    const from =
      since === undefined
        ? undefined
        : await broadcast.resume(since).catch((error: unknown) => {
            if (isCongerError(error, 'ServiceUnavailable')) return 'cut';
            throw error;
          });
    if (from === 'cut') return false;
    return new Promise((resolve, reject) => {
      let left = 1 + Math.floor(Math.random() * 40);
      const feed = openFeed<KvObject<Counter>, Change<Counter>>({
        broadcast,
        since: from,
        ...(started
          ? {}
          : {
              snapshot: async () => {
                const found = await process.kv.find<Counter>('counters', '(owner=*)', { noLimit: true });
                // Some take longer than a short ring holds what comes meanwhile.
                await new Promise((resolve) => setTimeout(resolve, Math.random() * 400));
                return { items: found.objects, found };
              },
            }),
        select,
        // Some go their own way.
        cohorts: Math.random() < 0.7 ? cohorts : undefined,
        send: async (message) => {
          if (message.type === 'end') return true;
          since = message.cursor;
          if (message.type === 'snapshot') {
            started ||= message.last;
            for (const { key, value } of message.items) state.set(key, value.n);
          } else if (message.type === 'event') {
            const { key, value } = message.event;
            const expected = (state.get(key) ?? 0) + 1;
            if (value?.n !== expected) reject(new Error(`${key}: ${value?.n} where ${expected} should come`));
            state.set(key, expected);
            left--;
          }
          if (until(state)) resolve(true);
          else if (left <= 0) resolve(false);
          else return true;
          feed.close();
          return false;
        },
      });
      feed.done.then((error) => {
        // A short ring overtakes readers, and a page may have been asked for over a connection that was cut.
        if (error?.code === 'SlowReader' || error?.code === 'ServiceUnavailable') resolve(false);
        else if (error !== undefined) reject(error);
      });
    });
  };
  return (async () => {
    while (!(await session()));
    return state;
  })();
}

test('readers that begin and resume anywhere, at any time, see every change once and in order', async () => {
  let stopped = false;
  const written = new Map(keys.map((key) => [key, 0]));
  const write = async (key: string) => {
    const n = (written.get(key) ?? 0) + 1;
    await road.kv.put('counters', key, { owner: ownerOf(key), n });
    written.set(key, n);
  };
  const writers = Array.from({ length: 8 }, async (_, w) => {
    const own = keys.filter((_key, i) => i % 8 === w);
    while (!stopped) for (const key of own) await write(key);
  });
  let final: ReadonlyMap<string, number> | undefined;
  const done = (state: ReadonlyMap<string, number>) =>
    final !== undefined && keys.every((key) => state.get(key) === final?.get(key));
  const readers: Promise<ReadonlyMap<string, number>>[] = [];
  for (let i = 0; i < 12; i++) {
    readers.push(follow(done));
    const before = written.get('counter0') ?? 0;
    await vi.waitFor(() => expect(written.get('counter0')).toBeGreaterThan(before + 5), {
      timeout: 60_000,
      interval: 5,
    });
    if (i % 4 === 2) pick().process.cut();
  }
  stopped = true;
  await Promise.all(writers);
  final = new Map([...written].map(([key, n]) => [key, n + 1]));
  for (const key of keys) await write(key);
  for (const state of await Promise.all(readers)) expect(state).toEqual(final);
}, 300_000);
