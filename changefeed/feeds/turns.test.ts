import { expect, test } from 'vitest';
import { Turns } from './turns.ts';

test('so many at once, in order; who leaves before its turn takes none', async () => {
  const turns = new Turns(2);
  const begun: number[] = [];
  const taken = Array.from({ length: 6 }, (_, i) => {
    const turn = turns.take();
    void turn.begun.then(() => begun.push(i));
    return turn;
  });
  await taken[1]?.begun;
  expect(begun).toEqual([0, 1]);
  taken[2]?.over();
  taken[3]?.over();
  taken[0]?.over();
  taken[0]?.over();
  await taken[4]?.begun;
  expect(begun).toEqual([0, 1, 4]);
  expect(turns.waiting).toBe(1);
  taken[1]?.over();
  await taken[5]?.begun;
  for (const turn of taken) turn.over();
  const [one, two] = [turns.take(), turns.take()];
  await Promise.all([one.begun, two.begun]);
  expect(turns.waiting).toBe(0);
});
