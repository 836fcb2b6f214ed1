import { afterEach, expect, test, vi } from 'vitest';
import { Patience } from './patience.ts';

afterEach(() => {
  vi.useRealTimers();
});

test('patience doubles with each holder beyond ten that was ended, up to a bound, and is short again after a minute', () => {
  vi.useFakeTimers({ toFake: ['performance'] });
  const patience = new Patience(1_000, 5_000);
  const seen = [patience.ms];
  for (let i = 0; i < 14; i++) {
    patience.tried();
    seen.push(patience.ms);
  }
  expect(seen).toEqual([...Array(11).fill(1_000), 2_000, 4_000, 5_000, 5_000]);
  vi.advanceTimersByTime(60_000);
  expect(patience.ms).toBe(1_000);
});
