import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import { parseChange } from '../change.ts';
import { TestLog } from '../testing/log.ts';
import type { Change } from '../types.ts';
import { FeedClasses } from './feed-class.ts';
import { Ring } from './ring.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** How many of the changes are still in memory. */
async function held(changes: readonly WeakRef<Change>[]): Promise<number> {
  // What a WeakRef has answered is kept until its task is over.
  await new Promise((resolve) => setImmediate(resolve));
  collect();
  return changes.filter((change) => change.deref() !== undefined).length;
}

/** Has `count` changes passed to `take`, and keeps none of them. */
function pass(count: number, take: (change: Change) => void): WeakRef<Change>[] {
  const log = new TestLog(1);
  return Array.from({ length: count }, (_, i) => {
    const change = parseChange(
      log.make({ key: `k${i}`, value: { name: i % 2 ? 'odd' : 'even', text: 'x' } }),
    );
    take(change);
    return new WeakRef(change);
  });
}

test('what the ring has dropped is not in memory any more', async () => {
  const ring = new Ring(1, { maxChanges: 5, maxBytes: 1_000_000, resumeMs: 0 });
  expect(await held(pass(100, (change) => ring.append(change, 100)))).toBe(5);
  expect(ring.next).toBe(100);
});

test('readers of one kind keep lines, and no change, whether it is one to them or not', async () => {
  const index = { name: { type: 'string' } } as const;
  const present = ({ name }: { name: string }) => ({ name });
  const classes = new FeedClasses({
    thing: {
      bucket: 'things',
      all: '(name=*)',
      index,
      present: (value) => present(value as { name: string }),
    },
  });
  const thing = classes.find('thing');
  if (thing === undefined) throw new Error('no such resource');
  const [readers, leave] = classes.join(thing, '(name=odd)');
  let lines = 0;
  const passed = pass(100, (change) => {
    const line = readers.line(change);
    expect(readers.line(change)).toBe(line);
    if (line !== undefined) lines++;
  });
  expect(await held(passed)).toBe(0);
  expect(lines).toBe(50);
  leave();
});
