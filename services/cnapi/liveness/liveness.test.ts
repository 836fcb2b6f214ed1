import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { startBroadcast } from '../../../changefeed/broadcast.ts';
import { TestKv } from '../../../changefeed/testing/kv.ts';
import { TestLog } from '../../../changefeed/testing/log.ts';
import { CongerError } from '../../../runtime/errors.ts';
import { silentLogger } from '../../../runtime/log.ts';
import { Shutdown } from '../../../runtime/shutdown.ts';
import type { ServiceContext } from '../../common/service.ts';
import { statusBucket } from '../models/buckets.ts';
import type { StatusRecord } from '../models/status.ts';
import { startHeirs } from './heirs.ts';
import { Liveness } from './liveness.ts';

const silenceMs = 10_000;

/** A KV tier whose writes of statuses every instance is told of, as by the feed. */
class Statuses extends TestKv {
  readonly writes: StatusRecord[] = [];
  failing = false;
  /** Writes that the feed is yet to show. */
  lag: StatusRecord[] | undefined;
  readonly #instances: Liveness[] = [];
  readonly #dead = new Set<Liveness>();

  instance(name: string): Liveness {
    const self = new Liveness({
      kv: this,
      log: silentLogger(),
      member: name,
      silenceMs,
      heardElsewhere: async (server) =>
        this.#instances.some((other) => other !== self && !this.#dead.has(other) && other.hears(server)),
    });
    this.#instances.push(self);
    return self;
  }

  kill(instance: Liveness): void {
    this.#dead.add(instance);
    instance.close();
  }

  /** What an heir does that was given some partitions. */
  inherit(heir: Liveness): void {
    heir.inherit(this.status as StatusRecord);
  }

  get status(): StatusRecord | undefined {
    return this.objects.get(`${statusBucket.name}/${server}`)?.value as StatusRecord | undefined;
  }

  override async put(bucket: string, key: string, value: unknown, options = {}): Promise<{ etag: string }> {
    if (this.failing) throw new CongerError('NoDatabasePeersError', 'no database');
    const answer = await super.put(bucket, key, value, options);
    if (bucket !== statusBucket.name) return answer;
    this.writes.push(value as StatusRecord);
    if (this.lag === undefined) this.#show(value as StatusRecord);
    else this.lag.push(value as StatusRecord);
    return answer;
  }

  catchUp(): void {
    const { lag = [] } = this;
    this.lag = undefined;
    for (const written of lag) this.#show(written);
  }

  #show(written: StatusRecord): void {
    for (const instance of this.#instances) if (!this.#dead.has(instance)) instance.written(written);
  }
}

const server = randomUUID();
let kv: Statuses;
let a: Liveness;
let b: Liveness;

beforeEach(() => {
  vi.useFakeTimers();
  kv = new Statuses();
  a = kv.instance('a');
  b = kv.instance('b');
});
afterEach(() => {
  a.close();
  b.close();
  vi.useRealTimers();
});

const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);
const states = () => kv.writes.map(({ status, instance }) => `${status} ${instance}`);

describe('heartbeats', () => {
  test('are written once, however many come to however many instances', async () => {
    for (let i = 0; i < 40; i++) {
      await (i % 3 === 0 ? a : b).beat(server);
      await pass(5_000);
    }
    expect(states()).toEqual(['running a']);
  });

  test('also where the one that answers for the server hears none for longer than the silence', async () => {
    await a.beat(server);
    for (let i = 0; i < 20; i++) {
      await pass(5_000);
      await b.beat(server);
    }
    expect(states()).toEqual(['running a']);
    await pass(3 * silenceMs);
    expect(states()).toEqual(['running a', 'unknown a']);
  });

  test('that come at once make one claim', async () => {
    await Promise.all([a.beat(server), a.beat(server), a.beat(server)]);
    expect(states()).toEqual(['running a']);
  });

  test('that cease make the server unknown, and running again when they come again', async () => {
    await a.beat(server);
    await pass(silenceMs - 1);
    expect(kv.status?.status).toBe('running');
    await pass(1);
    expect(states()).toEqual(['running a', 'unknown a']);
    await b.beat(server);
    await a.beat(server);
    expect(states()).toEqual(['running a', 'unknown a', 'running b']);
  });

  test('are tried again with the next one where the first could not be written', async () => {
    kv.failing = true;
    await expect(a.beat(server)).rejects.toThrow('no database');
    kv.failing = false;
    await a.beat(server);
    expect(states()).toEqual(['running a']);
  });

  test('that cannot be written leave the server to the silence of its instance that is gone', async () => {
    await a.beat(server);
    kv.kill(a);
    kv.inherit(b);
    kv.failing = true;
    await expect(b.beat(server)).rejects.toThrow('no database');
    kv.failing = false;
    await pass(2 * silenceMs);
    expect(states()).toEqual(['running a', 'unknown b']);
  });

  test('that cease while the KV tier is gone make the server unknown once it is back', async () => {
    await a.beat(server);
    kv.failing = true;
    await pass(silenceMs);
    kv.failing = false;
    await pass(silenceMs);
    expect(states()).toEqual(['running a', 'unknown a']);
  });
});

describe('an agent’s connection', () => {
  test('keeps the server running without a word, and its end begins the silence', async () => {
    const session = await a.connected(server);
    await pass(10 * silenceMs);
    a.lost(server, session);
    await pass(silenceMs - 1);
    expect(states()).toEqual(['running a']);
    await pass(1);
    expect(states()).toEqual(['running a', 'unknown a']);
  });

  test('to another instance takes the server over; the old one’s end says nothing any more', async () => {
    const session = await a.connected(server);
    await b.connected(server);
    a.lost(server, session);
    await pass(3 * silenceMs);
    expect(states()).toEqual(['running a', 'running b']);
  });

  test('within the silence leaves no trace but who answers', async () => {
    const first = await a.connected(server);
    a.lost(server, first);
    await pass(silenceMs / 2);
    await a.connected(server);
    await pass(3 * silenceMs);
    expect(states()).toEqual(['running a', 'running a']);
  });

  test('that could not be written down is not held for one', async () => {
    kv.failing = true;
    await expect(a.connected(server)).rejects.toThrow('no database');
    expect(a.hears(server)).toBe(false);
  });

  test('is put right where somebody wrote that the server is unknown', async () => {
    await a.connected(server);
    const status = kv.status as StatusRecord;
    await kv.put(statusBucket.name, server, { ...status, status: 'unknown', instance: 'b' });
    await pass(0);
    expect(kv.status).toMatchObject({ status: 'running', instance: 'a' });
  });
});

describe('a feed that lags', () => {
  test('does not take from an instance what it answers for since', async () => {
    const session = await a.connected(server);
    a.lost(server, session);
    kv.lag = [];
    await pass(silenceMs);
    const next = await b.connected(server);
    expect(states()).toEqual(['running a', 'unknown a', 'running b']);
    kv.catchUp();
    await pass(3 * silenceMs);
    expect(kv.status).toMatchObject({ status: 'running', instance: 'b' });
    b.lost(server, next);
    await pass(silenceMs);
    expect(states()).toEqual(['running a', 'unknown a', 'running b', 'unknown b']);
  });

  test('nor from one that beats came to', async () => {
    await a.beat(server);
    kv.lag = [];
    await pass(silenceMs);
    await b.beat(server);
    kv.catchUp();
    await pass(silenceMs);
    expect(states()).toEqual(['running a', 'unknown a', 'running b', 'unknown b']);
  });

  test('shows the one that is behind that another answers by now', async () => {
    const session = await a.connected(server);
    kv.lag = [];
    await b.connected(server);
    a.lost(server, session);
    await pass(silenceMs / 2);
    kv.catchUp();
    await pass(3 * silenceMs);
    expect(states()).toEqual(['running a', 'running b']);
  });
});

/** Has `b` follow the feed, and look for servers whose instance is gone. */
async function startHeir() {
  const log = silentLogger();
  const shutdown = new Shutdown(log);
  const reader = new TestLog(1).reader();
  const broadcast = await startBroadcast({ reader, log });
  shutdown.add('broadcast', () => broadcast.stop());
  const config = { cnapi: [] };
  const context = { kv, reader, broadcast, shutdown, log, config, member: 'b' };
  await startHeirs(context as unknown as ServiceContext, b);
  return { reader, shutdown };
}

describe('a feed that has lost writes', () => {
  test('leaves no server unknown that beats', async () => {
    const { reader, shutdown } = await startHeir();
    await a.beat(server);
    kv.lag = [];
    await pass(silenceMs);
    await b.beat(server);
    expect(states()).toEqual(['running a', 'unknown a']);
    await reader.lose(0);
    await b.beat(server);
    expect(states()).toEqual(['running a', 'unknown a', 'running b']);
    await shutdown.run();
  });

  test('takes no server from who answers for it', async () => {
    await a.beat(server);
    b.missed();
    await b.beat(server);
    await b.beat(server);
    expect(states()).toEqual(['running a']);
  });
});

describe('a server whose instance is gone', () => {
  test('is looked for until the KV tier answers', async () => {
    await a.beat(server);
    kv.kill(a);
    const find = kv.find.bind(kv);
    let away = 2;
    const looked = new Promise<void>((resolve) => {
      vi.spyOn(kv, 'find').mockImplementation(async (bucket, ...more) => {
        if (bucket !== statusBucket.name) return find(bucket, ...more);
        if (away-- > 0) throw new CongerError('NoDatabasePeersError', 'no database');
        resolve();
        return find(bucket, ...more);
      });
    });
    const { shutdown } = await startHeir();
    await looked;
    await pass(1);
    expect(states()).toEqual(['running a']);
    await pass(silenceMs);
    expect(states()).toEqual(['running a', 'unknown b']);
    await shutdown.run();
  });

  test('is unknown once the silence is over', async () => {
    await a.connected(server);
    kv.kill(a);
    kv.inherit(b);
    await pass(silenceMs - 1);
    expect(kv.status?.status).toBe('running');
    await pass(1);
    expect(states()).toEqual(['running a', 'unknown b']);
  });

  test('is answered for by whoever hears it next', async () => {
    await a.beat(server);
    kv.kill(a);
    kv.inherit(b);
    await b.beat(server);
    await pass(silenceMs - 1);
    await b.beat(server);
    await pass(silenceMs - 1);
    expect(states()).toEqual(['running a', 'running b']);
  });

  test('is answered for at once by an heir that hears it already', async () => {
    await a.beat(server);
    await b.beat(server);
    kv.kill(a);
    kv.inherit(b);
    await pass(0);
    expect(states()).toEqual(['running a', 'running b']);
  });

  test('stays running while one that is not its heir hears it', async () => {
    const c = kv.instance('c');
    await a.beat(server);
    await b.beat(server);
    kv.kill(a);
    kv.inherit(c);
    for (let i = 0; i < 6; i++) {
      await pass(silenceMs / 2);
      await b.beat(server);
    }
    expect(states()).toEqual(['running a']);
    await pass(3 * silenceMs);
    expect(states()).toEqual(['running a', 'unknown c']);
    c.close();
  });
});
