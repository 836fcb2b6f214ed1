import type pg from 'pg';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { WalBudget } from '../../runtime/postgres/slot-wal.ts';
import { Parts } from './parts.ts';
import { watch } from './watch.ts';

const log = silentLogger();

let status: string;
let active: boolean;
/** Whether PostgreSQL answers. */
let answers: boolean;
const control = {
  query: () =>
    answers ? Promise.resolve({ rows: [{ behind: '1', held: '1', status, active }] }) : new Promise(() => {}),
} as unknown as pg.Client;

let stream: { paused: boolean; confirmed: string };
let appended: string;
let givenUp: string[];
let unwatch: () => void;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  status = 'reserved';
  active = true;
  answers = true;
  stream = { paused: false, confirmed: '0/10' };
  appended = 'a';
  givenUp = [];
  unwatch = watch({
    ...{ control, slot: 'conger', stream, budget: new WalBudget(100, log), parts: new Parts(), log },
    appended: () => appended,
    giveUp: (error) => givenUp.push(error.message),
  });
});

afterEach(() => {
  unwatch();
  vi.useRealTimers();
});

async function looks(count: number): Promise<void> {
  for (let n = 0; n < count; n++) await vi.advanceTimersByTimeAsync(5_000);
}

test('a stream that stands still while PostgreSQL needs its WAL is given up', async () => {
  status = 'unreserved';
  stream.paused = true;
  await looks(2);
  expect(givenUp).toEqual(['PostgreSQL needs the WAL of the slot, and the log takes nothing']);
});

test('one that is paused for a moment, because much waits for the log, is not', async () => {
  status = 'unreserved';
  stream.paused = true;
  await looks(1);
  // A large transaction is appended in slices, and confirmed when it is in the log whole.
  appended = 'b';
  await looks(1);
  appended = 'c';
  await looks(1);
  stream.confirmed = '0/20';
  await looks(1);
  stream.paused = false;
  await looks(2);
  expect(givenUp).toEqual([]);
});

test('a slot that nobody reads, and a PostgreSQL that does not answer, are given up', async () => {
  active = false;
  await looks(1);
  expect(givenUp).toEqual(['PostgreSQL does not read the slot any more']);
  active = true;
  answers = false;
  await looks(3);
  expect(givenUp).toHaveLength(1);
  await looks(1);
  expect(givenUp.at(-1)).toBe('PostgreSQL does not answer');
});
