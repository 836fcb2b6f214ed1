import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { SavedNumbers } from './numbers.ts';

let home: string;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'conger-numbers-'));
});
afterEach(() => rm(home, { recursive: true, force: true }));

async function load(): Promise<SavedNumbers> {
  const numbers = new SavedNumbers(home, silentLogger());
  await numbers.load();
  return numbers;
}

it('stay with what they stand for, over restarts and whatever comes and goes beside', async () => {
  const first = await load();
  const given = ['a', 'b', 'c'].map((name) => first.vm(name));
  expect(new Set(given).size).toBe(3);
  expect(first.unsaved).toBe(true);
  await first.save();
  const second = await load();
  expect(second.vm('c')).toBe(given[2]);
  second.retain(new Set(['c']), new Set());
  // What was given back is used again as late as possible: packets under way may still carry it.
  expect(given).not.toContain(second.vm('d'));
  expect(second.vm('c')).toBe(given[2]);
});

it('run out only when all of them are in use', async () => {
  const numbers = await load();
  for (let i = 0; i < 65535; i++) numbers.zone(`bridge ${i}`);
  expect(() => numbers.zone('one too many')).toThrow('no number is left');
  numbers.retain(new Set(), new Set(['bridge 7']));
  expect(numbers.zone('one too many')).toBe(1);
});
