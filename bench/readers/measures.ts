import type pg from 'pg';
import { CHANGE_PREFIX } from '../../changefeed/capture/assembler.ts';
import { now } from '../feed/clock.ts';
import { quantile } from '../quantile.ts';
import type { Usage } from './instance.ts';
import { type Clients, startClients, startInstance } from './processes.ts';

/** PostgreSQL with a capture: `env` is for processes that read its log. */
export interface Store {
  readonly client: pg.Client;
  readonly env: NodeJS.ProcessEnv;
}

/** A commit of one change of 1 KB. */
function write({ client }: Store, key: string, state = 'running') {
  const body = {
    v: 1,
    bucket: 'things',
    key,
    op: 'put',
    etag: 'e',
    request_id: null,
    traceparent: null,
    value: { state, pad: 'x'.repeat(850) },
    previous: null,
  };
  return client.query('SELECT pg_logical_emit_message(true, $1, $2)', [
    CHANGE_PREFIX + key,
    JSON.stringify(body),
  ]);
}

/** Processor time between the two, in ms. */
function cpuMs(before: Usage, after: Usage) {
  const user = (after.cpu.asked.user - before.cpu.answered.user) / 1000;
  const system = (after.cpu.asked.system - before.cpu.answered.system) / 1000;
  return { user, system };
}

/** Memory that a reader takes that is told nothing but bookmarks; bytes. */
export async function measureIdle(store: Store, count: number, websocket: boolean) {
  const instance = await startInstance(store.env);
  const clients = startClients();
  try {
    // What the first readers bring with them is not the next one's.
    await clients.order({ open: 500, url: instance.url, websocket });
    const before = await instance.usage();
    await clients.order({ open: count, url: instance.url, websocket });
    const after = await instance.usage();
    return {
      rss: (after.rss - before.rss) / count,
      heap: (after.heapUsed - before.heapUsed) / count,
    };
  } finally {
    await Promise.all([clients.stop(), instance.stop()]);
  }
}

/** A change told to `count` readers, one change at a time; in ms from before the statement that commits it. */
export async function measureTold(store: Store, count: number, changes: number, websocket: boolean) {
  const instance = await startInstance(store.env);
  const clients = startClients();
  try {
    await clients.order({ open: count, url: instance.url, websocket });
    const tell = async (key: string) => {
      await clients.order({ mark: `"key":"${key}"` });
      const sent = now();
      await write(store, key);
      const times = await clients.order({ times: true });
      return { sent, times };
    };
    for (let n = 0; n < 50; n++) await tell(`warm${n}`);
    const before = await instance.usage();
    const runs: Awaited<ReturnType<typeof tell>>[] = [];
    for (let n = 0; n < changes; n++) runs.push(await tell(`tell${n}`));
    const after = await instance.usage();
    const from = (start: (n: number) => number, pick: (times: readonly number[]) => number) =>
      spread(runs.map(({ times }, n) => pick(times) - start(n)));
    const sent = (n: number) => runs[n]?.sent ?? Number.NaN;
    const arrived = (n: number) => after.arrivals[n] ?? Number.NaN;
    const { user, system } = cpuMs(before, after);
    return {
      all: from(sent, (times) => Math.max(...times)),
      first: from(sent, (times) => Math.min(...times)),
      allFromArrival: from(arrived, (times) => Math.max(...times)),
      cpu: { user: user / changes, system: system / changes },
    };
  } finally {
    await Promise.all([clients.stop(), instance.stop()]);
  }
}

/**
 * Readers whose instance is killed, back at another one; in seconds until all have all of `missed` changes, of which one in
 * ten is theirs. `held` says how many changes the other instance holds: what is older its readers read from the log.
 */
export async function measureResume(store: Store, count: number, missed: number, held: number) {
  const [one, other] = [await startInstance(store.env), await startInstance(store.env, held)];
  const clients = startClients();
  try {
    await clients.order({ open: count, url: one.url, websocket: false });
    await tellOnce(store, clients, `before${held}`);
    one.signal('SIGSTOP');
    const last = `last${held}`;
    await clients.order({ mark: `"key":"${last}"` });
    for (let n = missed - 1; n >= 0; n--) {
      await write(store, n === 0 ? last : `missed${n}`, n % 10 === 0 ? 'running' : 'stopped');
    }
    await clients.order({ other: other.url });
    const before = await other.usage();
    const start = now();
    one.signal('SIGKILL');
    const times = await clients.order({ times: true });
    const after = await other.usage();
    const { user, system } = cpuMs(before, after);
    return { seconds: (Math.max(...times) - start) / 1000, cpu: (user + system) / 1000, finds: after.finds };
  } finally {
    await Promise.all([clients.stop(), one.stop(), other.stop()]);
  }
}

async function tellOnce(store: Store, clients: Clients, key: string): Promise<void> {
  await clients.order({ mark: `"key":"${key}"` });
  await write(store, key);
  await clients.order({ times: true });
}

function spread(durations: number[]) {
  const sorted = durations.sort((a, b) => a - b);
  return { p50: quantile(sorted, 0.5), p99: quantile(sorted, 0.99) };
}
