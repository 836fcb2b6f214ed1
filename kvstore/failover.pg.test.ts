import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { isCongerError } from '../runtime/errors.ts';
import { silentLogger } from '../runtime/log.ts';
import { type KvstoreProcess, spawnKvstore } from '../test/fixtures/kvstore.ts';
import { type ReplicatedPostgres, startReplicatedPostgres } from '../test/fixtures/replicated-postgres.ts';
import { Random } from '../test/random.ts';
import { createKv } from './client.ts';
import type { Kv } from './types.ts';

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
const random = new Random(seed);
const writersPerClient = 8;
/** Writes go on some hundred ms after a promotion, on a machine that has time for it; long before a call is given up. */
const resumedMs = 30_000;

let postgres: ReplicatedPostgres;
let servers: KvstoreProcess[] = [];
let kvs: Kv[] = [];
let load: Load | undefined;

beforeEach(async () => {
  postgres = await startReplicatedPostgres();
  servers = await Promise.all([spawnKvstore(postgres.url), spawnKvstore(postgres.url)]);
  const urls = servers.map(({ url }) => url);
  kvs = [0, 1].map(() => createKv({ servers: urls, log: silentLogger(), deadlineMs: 60_000 }));
  await kvs[0]?.ensureBucket('puts', { index: { serial: { type: 'string', unique: true } } });
  await kvs[0]?.ensureBucket('counters', { index: {} });
}, 120_000);

afterEach(async () => {
  load?.end();
  await Promise.all(kvs.map((kv) => kv.close()));
  await Promise.all(servers.map((server) => server.kill('SIGKILL')));
  await postgres?.stop();
});

interface Counter {
  readonly count: number;
  readonly serial: string;
}

/** Writers who never stop, and what they were told of each write. */
class Load {
  /** Etag of each put that was acknowledged, by key. */
  readonly acknowledged = new Map<string, string>();
  readonly unknown = new Set<string>();
  readonly refused = new Set<string>();
  /** What each counter may be: one value, and with it those whose writers do not know what became of them. */
  readonly counters = new Map<string, readonly (Counter | undefined)[]>();
  readonly surprises: unknown[] = [];
  #stopped = false;
  #lastAnswer = 0;
  readonly #writers: readonly Promise<void>[];

  constructor() {
    this.#writers = kvs.flatMap((kv, client) =>
      Array.from({ length: writersPerClient }, (_, i) => this.#write(kv, `${client}.${i}`)),
    );
  }

  /** Resolves with the milliseconds until a write that begins from now on is acknowledged, by each client. */
  async resumes(): Promise<number> {
    const start = performance.now();
    await Promise.all(kvs.map((kv, i) => kv.put('puts', `resumed.${i}`, { serial: `resumed.${i}` })));
    return performance.now() - start;
  }

  /** No further writes. */
  end(): void {
    this.#stopped = true;
  }

  async stop(): Promise<void> {
    this.end();
    await Promise.all(this.#writers);
  }

  async until(writes: number): Promise<void> {
    const goal = this.#lastAnswer + writes;
    while (this.#lastAnswer < goal && this.surprises.length === 0) await sleep(5);
  }

  async #write(kv: Kv, name: string): Promise<void> {
    for (let n = 0; !this.#stopped && this.surprises.length === 0; n++) {
      await this.#put(kv, `${name}.${n}`);
      await this.#increment(kv, name);
      this.#lastAnswer++;
    }
  }

  async #put(kv: Kv, key: string): Promise<void> {
    try {
      const { etag } = await kv.put('puts', key, { serial: key }, { etag: null });
      this.acknowledged.set(key, etag);
    } catch (error) {
      if (isCongerError(error, 'UnknownOutcomeError')) this.unknown.add(key);
      else if (isCongerError(error, 'NoDatabasePeersError', 'OverloadedError')) this.refused.add(key);
      else this.surprises.push(error);
    }
  }

  /** Reads and writes its own counter, which nobody else writes: all that happens to it is told to this writer. */
  async #increment(kv: Kv, name: string): Promise<void> {
    const possible = this.counters.get(name) ?? [undefined];
    try {
      const there = await kv.tryGet<Counter>('counters', name);
      expect(possible).toContainEqual(there?.value);
      const next = { count: (there?.value.count ?? 0) + 1, serial: `${name}.${random.below(1e9)}` };
      this.counters.set(name, [...possible, next]);
      await kv.put('counters', name, next, { etag: there?._etag ?? null });
      this.counters.set(name, [next]);
    } catch (error) {
      if (isCongerError(error, 'UnknownOutcomeError')) return;
      // Nothing was written; or one of those of which nothing was known, meanwhile.
      this.counters.set(name, possible);
      if (isCongerError(error, 'EtagConflictError') && possible.length > 1) return;
      if (!isCongerError(error, 'NoDatabasePeersError', 'OverloadedError')) this.surprises.push(error);
    }
  }

  /** Compares what is on the primary with what was told. */
  async check(): Promise<void> {
    expect(this.surprises).toEqual([]);
    const rows = await postgres.primary().query('SELECT _key, _etag FROM kv.puts');
    const there = new Map(rows.map(({ _key, _etag }) => [String(_key), String(_etag)]));
    expect(there.size).toBe(rows.length);
    const lost = [...this.acknowledged].filter(([key, etag]) => there.get(key) !== etag);
    expect(lost).toEqual([]);
    expect([...this.refused].filter((key) => there.has(key))).toEqual([]);
    const told = (key: string) =>
      this.acknowledged.has(key) || this.unknown.has(key) || key.startsWith('resumed');
    expect([...there.keys()].filter((key) => !told(key))).toEqual([]);
    const counters = await postgres.primary().query('SELECT _key, _value FROM kv.counters');
    const values = new Map(
      counters.map(({ _key, _value }) => [String(_key), JSON.parse(String(_value)) as Counter]),
    );
    for (const name of values.keys()) expect(this.counters.has(name)).toBe(true);
    for (const [name, possible] of this.counters) expect(possible).toContainEqual(values.get(name));
  }
}

function report(what: string, load: Load, ms: number): void {
  const { acknowledged, unknown, refused } = load;
  console.log(
    `${what} (SEED=${seed}): ${acknowledged.size} puts acknowledged, ${unknown.size} unknown, ${refused.size} refused; ` +
      `writes again ${ms.toFixed(0)} ms after the promotion`,
  );
}

test('a killed primary and its standby’s promotion lose no acknowledged write and double none, twice over', async () => {
  load = new Load();
  for (const again of [false, true]) {
    if (again) await postgres.addStandby();
    await load.until(100);
    await sleep(random.below(200));
    await postgres.killPrimary();
    await sleep(random.below(500));
    await postgres.promoteStandby();
    const ms = await load.resumes();
    report('killed', load, ms);
    expect(ms).toBeLessThan(resumedMs);
    await load.until(100);
  }
  await load.stop();
  await load.check();
}, 300_000);

test('a frozen primary loses its place for good, and no acknowledged write is lost', async () => {
  const old = postgres.primary();
  load = new Load();
  await load.until(100);
  await sleep(random.below(200));
  await old.kill('SIGSTOP');
  await sleep(random.below(500));
  await postgres.promoteStandby();
  const ms = await load.resumes();
  report('frozen', load, ms);
  expect(ms).toBeLessThan(resumedMs);
  await old.kill('SIGCONT');
  await load.until(100);
  // What it was doing when it froze waits there for its standby, unseen by all, and for each other's locks.
  const sessions = `FROM pg_stat_activity WHERE application_name = 'conger-kvstore'`;
  while ((await old.query(`SELECT ${sessions} AND state = 'idle'`)).length > 0) await sleep(20);
  const [mark] = await old.query('SELECT clock_timestamp()::text AS now');
  await load.until(100);
  expect(await old.query(`SELECT query ${sessions} AND query_start > '${mark?.now}'`)).toEqual([]);
  await load.stop();
  await load.check();
}, 300_000);
