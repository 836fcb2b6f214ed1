import { EventEmitter, getEventListeners } from 'node:events';
import { type Consumer, Kafka } from 'kafkajs';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { silentLogger } from '../../../runtime/log.ts';
import { Watched } from '../../testing/until.ts';
import { Membership, type Shares } from './membership.ts';

const options = { brokers: [], topic: 't', partitions: 4, replicas: 1, log: silentLogger() };
const longMs = 60_000;

/** As much of kafkajs' consumer as a membership has to do with; the test is its group. */
class FakeConsumer extends EventEmitter {
  readonly events = { CRASH: 'crash', GROUP_JOIN: 'join', HEARTBEAT: 'heartbeat' };
  readonly pause = () => {};
  readonly connect = async () => {};
  readonly subscribe = async () => {};
  readonly run = async () => {};
  readonly disconnect = async () => {};

  join(memberId: string, partitions: readonly number[]): void {
    this.emit('join', { payload: { memberId, memberAssignment: { t: partitions } } });
  }

  crash(): void {
    this.emit('crash', { payload: { error: new Error('no coordinator') } });
  }
}

class Consumers extends Watched {
  readonly all: FakeConsumer[] = [];

  make(): Consumer {
    const consumer = new FakeConsumer();
    this.all.push(consumer);
    // Once it is listened to.
    setImmediate(() => this.changed());
    return consumer as unknown as Consumer;
  }

  async nth(n: number): Promise<FakeConsumer> {
    await this.until(() => (this.all[n - 1]?.listenerCount('join') ?? 0) > 0);
    return this.all[n - 1] as FakeConsumer;
  }
}

let consumers: Consumers;
let told: Shares[];
let membership: Membership;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  consumers = new Consumers();
  vi.spyOn(Kafka.prototype, 'consumer').mockImplementation(() => consumers.make());
  told = [];
});

afterEach(async () => {
  await membership.leave();
  vi.useRealTimers();
  vi.restoreAllMocks();
});

function begin(): void {
  membership = new Membership(options, 'group', 'member', (shares) => void told.push(shares));
}

const last = () => [...(told.at(-1)?.keys() ?? [])];

test('who cannot join again has no partitions after a while, and others once it has', async () => {
  begin();
  const first = await consumers.nth(1);
  first.join('one', [0, 1]);
  first.crash();
  const second = await consumers.nth(2);
  expect(last()).toEqual([0, 1]);
  vi.advanceTimersByTime(longMs);
  expect(last()).toEqual([]);
  second.join('two', [0, 1]);
  expect(told).toHaveLength(3);
  expect(told[2]?.get(0)).not.toBe(told[0]?.get(0));
});

test('who is back soon has its partitions all the time', async () => {
  begin();
  const first = await consumers.nth(1);
  first.join('one', [0, 1]);
  first.crash();
  const second = await consumers.nth(2);
  second.join('two', [1, 2]);
  expect(told.map((shares) => [...shares.keys()])).toEqual([
    [0, 1],
    [1, 2],
  ]);
});

test('where no heartbeat is answered the membership is over, though nothing has failed', async () => {
  begin();
  const first = await consumers.nth(1);
  first.join('one', [0, 1]);
  for (let beats = 0; beats < 100; beats++) {
    vi.advanceTimersByTime(1_000);
    first.emit('heartbeat', {});
  }
  expect(told).toHaveLength(1);
  vi.advanceTimersByTime(longMs);
  expect(last()).toEqual([]);
  // What comes so late is another's in between, whatever the member's name.
  first.join('one', [0]);
  expect(told.at(-1)?.get(0)).not.toBe(told[0]?.get(0));
  (await consumers.nth(2)).join('two', [3]);
  expect(last()).toEqual([3]);
});

test('attempts that failed leave nothing behind', async () => {
  const listened = vi.spyOn(EventTarget.prototype, 'addEventListener');
  begin();
  for (let n = 1; n < 6; n++) (await consumers.nth(n)).crash();
  await consumers.nth(6);
  const signals = new Set(listened.mock.contexts.filter((target) => target instanceof AbortSignal));
  const counts = [...signals].map((signal) => getEventListeners(signal, 'abort').length);
  expect(Math.max(...counts)).toBe(1);
});
