import { expect, test } from 'vitest';
import type { FeedSnapshot } from './feed.ts';
import { HeldSnapshot } from './held-snapshot.ts';
import { Turns } from './turns.ts';

/** Snapshots that are read when the test says so, one at a time. */
function snapshots() {
  const turns = new Turns(1);
  const reads: string[] = [];
  const settle = new Map<string, (error?: Error) => void>();
  const take = (name: string) => {
    const read = () => {
      reads.push(name);
      return new Promise<FeedSnapshot<string>>((resolve, reject) => {
        settle.set(name, (error) =>
          error === undefined ? resolve({ items: [name], found: { snapshot: '1:1:' } }) : reject(error),
        );
      });
    };
    return new HeldSnapshot<string>(
      turns,
      () => 'cursor',
      read,
      () => undefined,
    ).hold();
  };
  return { turns, reads, take, settle: (name: string, error?: Error) => settle.get(name)?.(error) };
}

const rest = () => new Promise<void>((resolve) => setImmediate(resolve));

test.each([
  ['well', undefined],
  ['badly', new Error('away')],
])('a read that nobody waits for any more keeps its turn until it has ended, %s', async (_how, error) => {
  const { turns, reads, take, settle } = snapshots();
  const [left, next] = [take('left'), take('next')];
  await rest();
  left.release();
  await rest();
  expect(reads).toEqual(['left']);
  expect(turns.waiting).toBe(1);
  settle('left', error);
  await rest();
  expect(reads).toEqual(['left', 'next']);
  settle('next');
  expect(await next.answer).toMatchObject({ items: ['next'], since: 'cursor' });
  next.release();
  await rest();
  await turns.take().begun;
});

test('who leaves before its turn, or before its read has begun, has nothing read', async () => {
  const { turns, reads, take, settle } = snapshots();
  const [begins, waits, last] = [take('begins'), take('waits'), take('last')];
  // It has its turn.
  expect(turns.waiting).toBe(2);
  begins.release();
  waits.release();
  await rest();
  expect(reads).toEqual(['last']);
  settle('last');
  await last.answer;
  last.release();
  await rest();
  await turns.take().begun;
});
