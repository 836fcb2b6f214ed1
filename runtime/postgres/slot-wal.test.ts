import { pino } from 'pino';
import { expect, test } from 'vitest';
import { WalBudget } from './slot-wal.ts';

test('each level is told once as it is reached, and the return', () => {
  const told: string[] = [];
  const log = pino({}, { write: (line: string) => told.push(JSON.parse(line).level) });
  const budget = new WalBudget(1_000, log);
  const judge = (held: number, status = 'reserved', active = true) =>
    budget.judge({ behind: 0, held, status, active });
  for (const held of [0, 500, 501, 700, 1_000, 1_001, 5_000, 800, 1_200, 100, 0]) judge(held);
  const [warn, error, info] = [40, 50, 30];
  expect(told.splice(0)).toEqual([warn, error, error, info]);
  judge(1, 'extended');
  judge(1, 'unreserved');
  judge(1, 'lost');
  judge(1);
  expect(told).toEqual([warn, error, info]);
  expect(budget.warning).toBeUndefined();
  judge(501);
  expect(budget.warning).toMatch(/much of its budget of WAL: the log does not take changes/);
  judge(501, 'reserved', false);
  expect(budget.warning).toMatch(/much of its budget of WAL: no capture runs/);
});
