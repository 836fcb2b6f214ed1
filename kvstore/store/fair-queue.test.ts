import { expect, test } from 'vitest';
import { FairQueue } from './fair-queue.ts';

const upTo = (count: number) => {
  let left = count;
  return () => left-- > 0;
};

test('sources take turns, and each keeps its order', () => {
  const queue = new FairQueue<string>();
  const [a, b, c] = [{}, {}, {}];
  for (let i = 1; i <= 5; i++) queue.push(a, `a${i}`);
  queue.push(b, 'b1');
  queue.push(c, 'c1');
  queue.push(c, 'c2');
  expect(queue.length).toBe(8);
  expect(queue.take(upTo(4))).toEqual(['a1', 'b1', 'c1', 'a2']);
  queue.push(b, 'b2');
  // Whose turn it is, is kept from one taking to the next.
  expect(queue.take(upTo(3))).toEqual(['c2', 'a3', 'b2']);
  expect(queue.take(upTo(10))).toEqual(['a4', 'a5']);
  expect(queue.length).toBe(0);
  expect(queue.take(upTo(10))).toEqual([]);
});

test('what does not fit stays at its turn', () => {
  const queue = new FairQueue<number>();
  const a = {};
  for (const n of [1, 50, 2]) queue.push(a, n);
  expect(queue.take((n) => n < 10)).toEqual([1]);
  expect(queue.take((n) => n < 100)).toEqual([50, 2]);
});
