import { afterEach, expect, test, vi } from 'vitest';
import { Watched } from '../testing/until.ts';
import type { LogRecord, Position } from '../types.ts';
import { Assembler, type CapturedTransaction, CHANGE_PREFIX } from './assembler.ts';
import { Pipeline, type PipelineOptions } from './pipeline.ts';
import { SpoolRoom } from './spool.ts';

const room = new SpoolRoom();

/** The transaction that commits at `lsn` with these bodies, and is confirmed by `lsn + 8`. */
function transaction(lsn: number, ...bodies: string[]): CapturedTransaction {
  const assembler = new Assembler(1, 1, room);
  const commitLsn = BigInt(lsn);
  assembler.push({ kind: 'begin', commitLsn, time: 0, xid32: lsn });
  for (const body of bodies) {
    const content = Buffer.from(body);
    assembler.push({ kind: 'message', transactional: true, prefix: `${CHANGE_PREFIX}k`, content });
  }
  const out = assembler.push({ kind: 'commit', commitLsn, endLsn: commitLsn + 8n });
  if (out === undefined) throw new Error('no transaction');
  return out;
}

/** A pipeline between hands: appends and visibility wait until the test lets them go. */
class Bench extends Watched {
  readonly appended: string[] = [];
  readonly xids: string[] = [];
  readonly confirmed: bigint[] = [];
  readonly events: string[] = [];
  readonly pipeline: Pipeline;
  readonly running: Promise<void>;
  holdVisible: Promise<void> | undefined;
  holdAppend: Promise<void> | undefined;
  mayNot: Error | undefined;
  fail: Error | undefined;

  constructor(tails: Position[] = ['']) {
    super();
    const options: PipelineOptions = {
      tails,
      visible: async (xids32) => {
        await this.holdVisible;
        return xids32.map((xid) => 2n ** 32n + BigInt(xid));
      },
      mayAppend: async () => {
        if (this.mayNot !== undefined) throw this.mayNot;
      },
      append: async (records: readonly LogRecord[]) => {
        this.events.push(`append ${records.length}`);
        this.changed();
        await this.holdAppend;
        if (this.fail !== undefined) throw this.fail;
        this.appended.push(...records.map((record) => record.body.toString()));
        this.xids.push(...records.map((record) => record.xid));
        this.changed();
      },
      confirm: (lsn) => {
        this.confirmed.push(lsn);
        this.changed();
      },
      pause: () => this.events.push('pause'),
      resume: () => {
        this.events.push('resume');
        this.changed();
      },
    };
    this.pipeline = new Pipeline(options);
    this.running = this.pipeline.run();
  }
}

function gate(): { readonly closed: Promise<void>; open(): void } {
  let open: () => void = () => undefined;
  const closed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { closed, open };
}

test('transactions are appended in order, with their full ids, and then confirmed', async () => {
  const bench = new Bench();
  bench.pipeline.push(transaction(16, 'a', 'b'));
  bench.pipeline.push(transaction(32, 'c'));
  await bench.until(() => bench.confirmed.includes(40n));
  expect(bench.appended).toEqual(['a', 'b', 'c']);
  expect(bench.xids).toEqual(['4294967312', '4294967312', '4294967328']);
  bench.pipeline.stop();
  await bench.running;
});

afterEach(() => {
  vi.useRealTimers();
});

test('behind an append of many records changes gather for 10 ms, and behind one of few they do not', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  const bench = new Bench();
  bench.pipeline.push(transaction(16, ...'abcdefghi'));
  await bench.until(() => bench.confirmed.includes(24n));
  for (const lsn of [32, 48]) {
    bench.pipeline.push(transaction(lsn, 'x'));
    await vi.advanceTimersByTimeAsync(4);
  }
  expect(bench.events).toEqual(['append 9']);
  await vi.advanceTimersByTimeAsync(2);
  expect(bench.events).toEqual(['append 9', 'append 2']);
  await bench.until(() => bench.confirmed.includes(56n));
  bench.pipeline.push(transaction(64, 'y'));
  await vi.advanceTimersByTimeAsync(0);
  expect(bench.events).toEqual(['append 9', 'append 2', 'append 1']);
  bench.pipeline.stop();
  await bench.running;
});

test('a full batch does not gather', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  const bench = new Bench();
  const many = Array.from({ length: 1_000 }, (_, i) => `${i}`);
  for (const lsn of [16, 32, 48]) bench.pipeline.push(transaction(lsn, ...many));
  await bench.until(() => bench.confirmed.includes(56n));
  expect(bench.events).toEqual(['append 1000', 'append 1000', 'append 1000']);
  bench.pipeline.stop();
  await bench.running;
});

test('nothing is confirmed before it is appended, not even what came without changes', async () => {
  const bench = new Bench();
  const hold = gate();
  bench.holdAppend = hold.closed;
  bench.pipeline.push(transaction(16, 'a'));
  await bench.until(() => bench.events.length === 1);
  bench.pipeline.push(transaction(32));
  bench.pipeline.reached(100n);
  expect(bench.confirmed).toEqual([]);
  hold.open();
  await bench.until(() => bench.confirmed.length > 0);
  expect(bench.confirmed).toEqual([100n]);
});

test('what is queued behind an append is not confirmed with it', async () => {
  const bench = new Bench();
  const hold = gate();
  bench.holdAppend = hold.closed;
  bench.pipeline.push(transaction(16, 'a'));
  await bench.until(() => bench.events.length === 1);
  bench.pipeline.push(transaction(32, 'b'));
  bench.pipeline.reached(100n);
  hold.open();
  await bench.until(() => bench.confirmed.length === 2);
  expect(bench.confirmed).toEqual([24n, 100n]);
});

test('nothing is appended before it is visible', async () => {
  const bench = new Bench();
  const hold = gate();
  bench.holdVisible = hold.closed;
  bench.pipeline.push(transaction(16, 'a'));
  for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
  expect(bench.events).toEqual([]);
  hold.open();
  await bench.until(() => bench.appended.length === 1);
});

test('what is in the log is dropped, and confirmed', async () => {
  const bench = new Bench(['00000001-0000000000000020-00000000']);
  bench.pipeline.push(transaction(16, 'old'));
  await bench.until(() => bench.confirmed.includes(24n));
  bench.pipeline.push(transaction(32, 'half of it', 'was there'));
  await bench.until(() => bench.confirmed.includes(40n));
  expect(bench.appended).toEqual(['was there']);
});

test('of a backlog one append is in flight behind another, and no third', async () => {
  const bench = new Bench();
  const hold = gate();
  bench.holdAppend = hold.closed;
  const bodies = Array.from({ length: 1_000 }, (_, n) => String(n));
  for (let n = 1; n <= 4; n++) bench.pipeline.push(transaction(n * 16, ...bodies));
  await bench.until(() => bench.events.length === 2);
  for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
  expect(bench.events).toEqual(['append 1000', 'append 1000']);
  expect(bench.confirmed).toEqual([]);
  hold.open();
  await bench.until(() => bench.confirmed.length === 4);
  expect(bench.appended).toEqual([...bodies, ...bodies, ...bodies, ...bodies]);
  expect(bench.confirmed).toEqual([24n, 40n, 56n, 72n]);
});

test('what does not fill an append waits for the one in flight', async () => {
  const bench = new Bench();
  const hold = gate();
  bench.holdAppend = hold.closed;
  bench.pipeline.push(transaction(16, 'a'));
  await bench.until(() => bench.events.length === 1);
  bench.pipeline.push(transaction(32, 'b'));
  bench.pipeline.push(transaction(48, 'c'));
  for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
  expect(bench.events).toEqual(['append 1']);
  hold.open();
  await bench.until(() => bench.appended.length === 3);
  expect(bench.events).toEqual(['append 1', 'append 2']);
});

test('behind an append that failed nothing is confirmed, and nothing more is sent', async () => {
  const bench = new Bench();
  const hold = gate();
  bench.holdAppend = hold.closed;
  const bodies = Array.from({ length: 1_000 }, (_, n) => String(n));
  for (let n = 1; n <= 3; n++) bench.pipeline.push(transaction(n * 16, ...bodies));
  await bench.until(() => bench.events.length === 2);
  bench.fail = new Error('disk full');
  hold.open();
  await expect(bench.running).rejects.toThrow('disk full');
  expect(bench.events).toEqual(['append 1000', 'append 1000']);
  expect(bench.confirmed).toEqual([]);
});

test('where there may be no more appends the one in flight is finished, and confirmed', async () => {
  const bench = new Bench();
  const hold = gate();
  bench.holdAppend = hold.closed;
  const bodies = Array.from({ length: 1_000 }, (_, n) => String(n));
  bench.pipeline.push(transaction(16, ...bodies));
  await bench.until(() => bench.events.length === 1);
  bench.mayNot = new Error('the seat was lost');
  bench.pipeline.push(transaction(32, ...bodies));
  for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
  hold.open();
  await expect(bench.running).rejects.toThrow('the seat was lost');
  expect(bench.events).toEqual(['append 1000']);
  expect(bench.confirmed).toEqual([24n]);
});

test('a failed append ends the work, unconfirmed', async () => {
  const bench = new Bench();
  bench.fail = new Error('disk full');
  bench.pipeline.push(transaction(16, 'a'));
  await expect(bench.running).rejects.toThrow('disk full');
  expect(bench.confirmed).toEqual([]);
});

test('stopping finishes the append in flight, and begins no other', async () => {
  const bench = new Bench();
  const hold = gate();
  bench.holdAppend = hold.closed;
  bench.pipeline.push(transaction(16, 'a'));
  await bench.until(() => bench.events.length === 1);
  bench.pipeline.push(transaction(32, 'b'));
  bench.pipeline.stop();
  hold.open();
  await bench.running;
  expect(bench.appended).toEqual(['a']);
  expect(bench.confirmed).toEqual([24n]);
});

test('a large transaction is appended in bounded parts, and confirmed as a whole', async () => {
  const bench = new Bench();
  const bodies = Array.from({ length: 4_500 }, (_, n) => String(n));
  bench.pipeline.push(transaction(16, ...bodies));
  await bench.until(() => bench.confirmed.length > 0);
  expect(bench.events).toEqual([...Array(4).fill('append 1000'), 'append 500']);
  expect(bench.appended).toEqual(bodies);
  expect(bench.confirmed).toEqual([24n]);
});

test('the stream is paused while too much waits, and goes on when little does', async () => {
  const bench = new Bench();
  const hold = gate();
  bench.holdAppend = hold.closed;
  const megabyte = 'x'.repeat(1024 * 1024);
  for (let n = 1; n <= 20; n++) bench.pipeline.push(transaction(n * 16, megabyte));
  expect(bench.events).toEqual(['pause']);
  hold.open();
  await bench.until(() => bench.appended.length === 20);
  expect(bench.events.filter((event) => !event.startsWith('append'))).toEqual(['pause', 'resume']);
});
