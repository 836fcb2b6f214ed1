import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Waiters } from '../../../changefeed/feeds/waiters.ts';
import type { BatchOp, Kv, KvObject } from '../../../kvstore/types.ts';
import { CongerError } from '../../../runtime/errors.ts';
import { silentLogger } from '../../../runtime/log.ts';
import { JobEngine } from './engine.ts';
import { hasEnded, type JobRecord } from './record.ts';
import type { JobDefinition } from './steps.ts';
import { JobStore } from './store.ts';

type Value = Record<string, unknown>;
const jobsBucket = 'test_jobs';
const never = new Promise<never>(() => undefined);

/** What is left of an instance's luck: its n-th call kills it, stalls or fails, before the call's effect or after it. */
class Fuse {
  calls = 0;
  dead = false;
  #release: (() => void) | undefined;
  readonly stalled: Promise<void>;
  #hasStalled: () => void = () => undefined;
  #at: number;
  readonly #when: 'before' | 'after';
  readonly #how: 'die' | 'stall' | 'fail';

  constructor(
    at = Number.POSITIVE_INFINITY,
    when: 'before' | 'after' = 'before',
    how: 'die' | 'stall' | 'fail' = 'die',
  ) {
    this.#at = at;
    this.#when = when;
    this.#how = how;
    this.stalled = new Promise((resolve) => {
      this.#hasStalled = resolve;
    });
  }

  /** Ends the stall; nothing happens to the instance any more. */
  release(): void {
    this.#at = Number.POSITIVE_INFINITY;
    this.#release?.();
  }

  async run<T>(effect: () => T): Promise<T> {
    if (this.dead) return never;
    const isIt = ++this.calls === this.#at;
    if (isIt && this.#when === 'before') await this.#blow();
    await turn();
    if (this.dead) return never;
    try {
      return effect();
    } finally {
      if (isIt && this.#when === 'after') await this.#blow();
      await turn();
      if (this.dead) await never;
    }
  }

  async #blow(): Promise<void> {
    this.#hasStalled();
    if (this.#how === 'fail') {
      throw new CongerError(
        this.#when === 'before' ? 'ServiceUnavailable' : 'UnknownOutcomeError',
        'bad luck',
      );
    }
    if (this.#how === 'die') {
      this.dead = true;
      return never;
    }
    await new Promise<void>((resolve) => {
      this.#release = resolve;
    });
  }
}

/** One KV tier, one service that jobs call, one node that reacts to what is desired of it; any number of instances. */
class World {
  readonly objects = new Map<string, { value: Value; etag: string; id: number }>();
  readonly engines: { engine: JobEngine; fuse: Fuse }[] = [];
  readonly waiters = new Waiters();
  /** Effects in the order in which they happened: `+job/step`, `-job/step`. */
  readonly effects: string[] = [];
  readonly things = new Set<string>();
  nodeIsAway = false;
  refuse: string | undefined;
  #etags = 0;

  kv(fuse: Fuse): Kv {
    const unused = () => Promise.reject(new Error('not used'));
    return {
      ensureBucket: async () => undefined,
      get: unused,
      put: unused,
      del: unused,
      ping: async () => undefined,
      close: async () => undefined,
      tryGet: <V>(bucket: string, key: string) => fuse.run(() => this.#read<V>(bucket, key)),
      find: <V>(bucket: string, filter: string) =>
        fuse.run(() => {
          const resource = /\(resource=([^)]*)\)/.exec(filter)?.[1];
          const objects = [...this.objects.keys()]
            .filter((name) => name.startsWith(`${bucket}|`))
            .map((name) => this.#read<V>(bucket, name.slice(bucket.length + 1)) as KvObject<V>)
            .filter(({ value }) => !hasEnded(value as JobRecord))
            .filter(({ value }) => resource === undefined || (value as Value).resource === resource);
          return { objects, count: objects.length, snapshot: '', lsn: '' };
        }),
      batch: (ops) => fuse.run(() => this.#batch(ops)),
    };
  }

  value(bucket: string, key: string): Value | undefined {
    return this.objects.get(`${bucket}|${key}`)?.value;
  }

  job(uuid: string): JobRecord {
    return this.value(jobsBucket, uuid) as JobRecord;
  }

  #read<V>(bucket: string, key: string): KvObject<V> | undefined {
    const found = this.objects.get(`${bucket}|${key}`);
    if (found === undefined) return undefined;
    const { value, etag, id } = structuredClone(found);
    return { bucket, key, value: value as V, _etag: etag, _id: id, _mtime: 0 };
  }

  #batch(ops: readonly BatchOp[]): { etags: (string | null)[] } {
    for (const op of ops) {
      const present = this.objects.get(`${op.bucket}|${op.key}`)?.etag ?? null;
      if (op.etag !== undefined && op.etag !== present) throw new CongerError('EtagConflictError', op.key);
    }
    const etags = ops.map((op) => {
      const name = `${op.bucket}|${op.key}`;
      if (op.operation === 'delete') {
        this.objects.delete(name);
        return null;
      }
      const etag = `e${++this.#etags}`;
      const id = this.objects.get(name)?.id ?? this.#etags;
      this.objects.set(name, { value: structuredClone(op.value) as Value, etag, id });
      return etag;
    });
    for (const op of ops) this.#changed(op.bucket, op.key);
    return { etags };
  }

  #changed(bucket: string, key: string): void {
    this.waiters.wake(bucket, key);
    if (bucket === jobsBucket) {
      const job = this.job(key);
      for (const { engine, fuse } of this.engines) {
        if (!fuse.dead && !engine.isOwn(job.runner)) engine.wake(String(job.resource));
      }
    }
    if (bucket === 'desired' && !this.nodeIsAway) this.report(key);
  }

  report(key: string): void {
    const value = { count: this.value('desired', key)?.count };
    setImmediate(() => this.#batch([{ operation: 'put', bucket: 'reported', key, value }]));
  }

  /** A call of another service that knows its requests by their purpose, and so does each once. */
  call(fuse: Fuse, what: string, thing: string): Promise<void> {
    return fuse.run(() => {
      if (this.refuse === what) throw new CongerError('Conflict', `${what} is refused`);
      if (this.things.has(thing)) return;
      this.things.add(thing);
      this.effects.push(`+${thing}`);
    });
  }

  uncall(fuse: Fuse, thing: string): Promise<void> {
    return fuse.run(() => {
      if (this.things.delete(thing)) this.effects.push(`-${thing}`);
    });
  }

  instance(name: string, fuse = new Fuse()): JobEngine {
    const kv = this.kv(fuse);
    const store = new JobStore(kv, jobsBucket, 'resource');
    const engine = new JobEngine({
      store,
      definitions: [this.definition(kv, fuse)],
      broadcast: { waitFor: (options, check) => this.waiters.wait(options, check) },
      log: silentLogger(),
      member: name,
      partitions: 2,
      mostPauseMs: 1,
    });
    this.engines.push({ engine, fuse });
    return engine;
  }

  definition(kv: Kv, fuse: Fuse): JobDefinition {
    const external = (step: string) => ({
      name: step,
      do: async ({ job }: { job: JobRecord }) => {
        await this.call(fuse, step, `${job.uuid}/${step}`);
        return { data: { [step]: 'done' } };
      },
      undo: async ({ job }: { job: JobRecord }) => {
        await this.uncall(fuse, `${job.uuid}/${step}`);
        return undefined;
      },
    });
    const counting = async (job: JobRecord, by: number) => {
      const key = String(job.resource);
      const present = await kv.tryGet<{ count: number }>('desired', key);
      const value = { count: (present?.value.count ?? 0) + by };
      return {
        ops: [{ operation: 'put', bucket: 'desired', key, value, etag: present?._etag ?? null } as const],
        data: { count: value.count },
      };
    };
    return {
      name: 'make-1',
      steps: [
        external('reserve'),
        {
          name: 'count',
          do: ({ job }) => counting(job, 1),
          undo: async ({ job }) => (job.data.count === undefined ? undefined : counting(job, -1)),
        },
        {
          name: 'wait',
          timeoutMs: 60_000,
          do: async ({ job, waitFor }) => {
            const key = String(job.resource);
            await waitFor('reported', key, async () => {
              const reported = await kv.tryGet<{ count: number }>('reported', key);
              return reported?.value.count === job.data.count ? true : undefined;
            });
            return undefined;
          },
        },
        external('finish'),
      ],
    };
  }

  async add(uuid: string, resource: string): Promise<void> {
    const store = new JobStore(this.kv(new Fuse()), jobsBucket, 'resource');
    await store.add(store.newJob(uuid, 'make-1', resource, {}));
  }

  /** Resolves once the job is at the step, run by one whose name begins so. */
  async step(uuid: string, step: number, runner = ''): Promise<void> {
    await this.waiters.wait({ bucket: jobsBucket, key: uuid, timeoutMs: 50_000 }, async () =>
      this.job(uuid)?.step === step && this.job(uuid).runner?.startsWith(runner) ? true : undefined,
    );
  }

  async ended(...uuids: string[]): Promise<void> {
    for (const uuid of uuids) {
      await this.waiters.wait({ bucket: jobsBucket, key: uuid, timeoutMs: 50_000 }, async () =>
        hasEnded(this.job(uuid)) ? true : undefined,
      );
    }
    // Whatever anyone still does after the end would be one effect too many.
    for (let i = 0; i < 20; i++) await turn();
  }

  stop(): Promise<unknown> {
    this.waiters.endAll(new Error('over'));
    return Promise.all(this.engines.filter(({ fuse }) => !fuse.dead).map(({ engine }) => engine.stop()));
  }
}

function own(engine: JobEngine): void {
  engine.assigned(0);
  engine.assigned(1);
}

function expectDone(world: World, jobs: readonly string[]): void {
  for (const uuid of jobs) {
    const job = world.job(uuid);
    expect(job.execution).toBe('succeeded');
    expect(job.chain_results.map((r) => [r.name, r.error])).toEqual([
      ['reserve', ''],
      ['count', ''],
      ['wait', ''],
      ['finish', ''],
    ]);
  }
  // Each effect once, and one job's all before the next one's.
  expect(world.effects).toEqual(jobs.flatMap((uuid) => [`+${uuid}/reserve`, `+${uuid}/finish`]));
  expect(world.value('desired', 'r')).toEqual({ count: jobs.length });
}

function expectUndone(world: World, uuid: string, refused: string): void {
  const job = world.job(uuid);
  expect(job.execution).toBe('failed');
  expect(job.chain_results.at(-1)).toMatchObject({ name: refused, error: { code: 'Conflict' } });
  const undone = ['finish.undo', 'count.undo', 'reserve.undo'];
  expect(job.onerror_results.map((r) => r.name)).toEqual(refused === 'finish' ? undone : ['reserve.undo']);
  expect(world.things.size).toBe(0);
  expect(world.value('desired', 'r')?.count ?? 0).toBe(0);
}

/** How many calls an instance makes when nothing happens to it. */
async function callsOf(refused?: string): Promise<number> {
  const world = new World();
  world.refuse = refused;
  const fuse = new Fuse();
  own(world.instance('a', fuse));
  await world.add('j1', 'r');
  await world.ended('j1');
  await world.stop();
  return fuse.calls;
}

describe('jobs', () => {
  it('of one resource run one after the other, in the order in which they were added', async () => {
    const world = new World();
    const jobs = ['j3', 'j1', 'j2'];
    for (const uuid of jobs) await world.add(uuid, 'r');
    await world.add('other', 's');
    own(world.instance('a'));
    await world.ended(...jobs, 'other');
    world.effects.splice(0, world.effects.length, ...world.effects.filter((e) => !e.includes('other')));
    expectDone(world, jobs);
    expect(world.job('other').execution).toBe('succeeded');
    await world.stop();
  });

  it('run on one instance alone, and a job added again is the one there is', async () => {
    const world = new World();
    own(world.instance('a'));
    own(world.instance('b'));
    await world.add('j1', 'r');
    await world.add('j1', 'r');
    await world.ended('j1');
    expectDone(world, ['j1']);
    await world.stop();
  });

  for (const when of ['before', 'after'] as const) {
    it(`go on elsewhere when their instance dies ${when} any of its calls`, async () => {
      const calls = await callsOf();
      for (let at = 1; at <= calls; at++) {
        const world = new World();
        const fuse = new Fuse(at, when);
        own(world.instance('a', fuse));
        await world.add('j1', 'r');
        await world.add('j2', 'r');
        await fuse.stalled;
        own(world.instance('b'));
        await world.ended('j1', 'j2');
        expectDone(world, ['j1', 'j2']);
        await world.stop();
      }
    });

    it(`are undone elsewhere when their instance dies ${when} any of its calls`, async () => {
      for (const refused of ['reserve', 'finish']) {
        const calls = await callsOf(refused);
        for (let at = 1; at <= calls; at++) {
          const world = new World();
          world.refuse = refused;
          const fuse = new Fuse(at, when);
          own(world.instance('a', fuse));
          await world.add('j1', 'r');
          await fuse.stalled;
          own(world.instance('b'));
          await world.ended('j1');
          expectUndone(world, 'j1', refused);
          await world.stop();
        }
      }
    });

    it(`get over a failure ${when} any of their calls' effects`, async () => {
      const calls = await callsOf();
      for (let at = 1; at <= calls; at++) {
        const world = new World();
        own(world.instance('a', new Fuse(at, when, 'fail')));
        await world.add('j1', 'r');
        await world.ended('j1');
        expectDone(world, ['j1']);
        await world.stop();
      }
    });

    it(`happen once beside an instance that stalled ${when} any of its calls, and wakes in their midst`, async () => {
      const calls = await callsOf();
      for (let at = 1; at <= calls; at++) {
        const world = new World();
        world.nodeIsAway = true;
        const fuse = new Fuse(at, when, 'stall');
        const a = world.instance('a', fuse);
        own(a);
        await world.add('j1', 'r');
        await Promise.race([fuse.stalled, world.step('j1', 2)]);
        // It does not know that it has lost its partitions: it is only not told of changes any more.
        world.engines.shift();
        own(world.instance('b'));
        await world.step('j1', 2, 'b/');
        fuse.release();
        for (let i = 0; i < 20; i++) await turn();
        expect(world.job('j1').step).toBe(2);
        world.report('r');
        await world.ended('j1');
        expectDone(world, ['j1']);
        await a.stop();
        await world.stop();
      }
    });

    it(`are left alone by an instance that stalled ${when} any of its calls, and wakes when it is too late`, async () => {
      const calls = await callsOf();
      for (let at = 1; at <= calls; at++) {
        const world = new World();
        const fuse = new Fuse(at, when, 'stall');
        own(world.instance('a', fuse));
        await world.add('j1', 'r');
        await fuse.stalled;
        own(world.instance('b'));
        await world.ended('j1');
        const last = structuredClone(world.job('j1'));
        fuse.release();
        await world.ended('j1');
        expectDone(world, ['j1']);
        expect(world.job('j1')).toEqual(last);
        await world.stop();
      }
    });
  }

  it('are no longer run by an instance that gave their partition up', async () => {
    const world = new World();
    world.nodeIsAway = true;
    const a = world.instance('a');
    own(a);
    await world.add('j1', 'r');
    await world.waiters.wait({ bucket: 'desired', key: 'r', timeoutMs: 50_000 }, async () =>
      world.value('desired', 'r') === undefined ? undefined : true,
    );
    await a.stop();
    world.report('r');
    for (let i = 0; i < 20; i++) await turn();
    expect(world.job('j1').execution).toBe('running');
    own(world.instance('b'));
    await world.ended('j1');
    expectDone(world, ['j1']);
    await world.stop();
  });

  it('fail at the deadline that their step was begun with, whoever runs them then', async () => {
    const world = new World();
    world.nodeIsAway = true;
    const fuse = new Fuse();
    own(world.instance('a', fuse));
    await world.add('j1', 'r');
    await world.waiters.wait({ bucket: jobsBucket, key: 'j1', timeoutMs: 50_000 }, async () =>
      world.job('j1').step === 2 ? true : undefined,
    );
    fuse.dead = true;
    const { record, etag } = { record: world.job('j1'), etag: world.objects.get(`${jobsBucket}|j1`)?.etag };
    expect(record.deadline).toBeGreaterThan(Date.now());
    const late = { ...record, deadline: Date.now() - 1 };
    await world
      .kv(new Fuse())
      .batch([{ operation: 'put', bucket: jobsBucket, key: 'j1', value: late, etag: etag ?? null }]);
    own(world.instance('b'));
    await world.ended('j1');
    expect(world.job('j1').execution).toBe('failed');
    expect(world.job('j1').chain_results.at(-1)).toMatchObject({
      name: 'wait',
      error: { code: 'StepTimeout' },
    });
    expect(world.things.size).toBe(0);
    expect(world.value('desired', 'r')).toEqual({ count: 0 });
    await world.stop();
  });

  it('are tried again while what they need is not reachable', async () => {
    const world = new World();
    let failures = 3;
    const call = world.call.bind(world);
    world.call = async (fuse, what, thing) => {
      if (what === 'finish' && failures-- > 0) throw new CongerError('ServiceUnavailable', 'away');
      await call(fuse, what, thing);
    };
    own(world.instance('a'));
    await world.add('j1', 'r');
    await world.ended('j1');
    expectDone(world, ['j1']);
    await world.stop();
  });

  it('whose writes are overtaken again and again are done anew each time', async () => {
    const world = new World();
    const fuse = new Fuse();
    const engine = world.instance('a', fuse);
    let others = 5;
    const batch = fuse.run.bind(fuse);
    fuse.run = async <T>(effect: () => T) => {
      const counting = world.job('j1')?.step === 1 && others > 0;
      if (counting) {
        others--;
        const count = Number(world.value('desired', 'r')?.count ?? 0) + 10;
        await world
          .kv(new Fuse())
          .batch([{ operation: 'put', bucket: 'desired', key: 'r', value: { count } }]);
      }
      return batch(effect);
    };
    own(engine);
    await world.add('j1', 'r');
    await world.ended('j1');
    expect(world.job('j1').execution).toBe('succeeded');
    expect(world.value('desired', 'r')).toEqual({ count: 51 });
    await world.stop();
  });

  it('of a kind that is not known here are left to others, and hold up those behind them', async () => {
    const world = new World();
    const store = new JobStore(world.kv(new Fuse()), jobsBucket, 'resource');
    await store.add(store.newJob('new', 'make-2', 'r', {}));
    await world.add('j1', 'r');
    own(world.instance('a'));
    for (let i = 0; i < 100; i++) await turn();
    expect(world.job('new').execution).toBe('queued');
    expect(world.job('j1').execution).toBe('queued');
    await world.stop();
  });
});
