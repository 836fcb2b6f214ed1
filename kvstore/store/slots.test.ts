import { expect, test } from 'vitest';
import { Slots } from './slots.ts';

function held(slots: Slots, log: string[], name: string) {
  let finish = (_error?: Error) => {};
  const done = slots.run(
    () =>
      new Promise<void>((resolve, reject) => {
        log.push(name);
        finish = (error) => (error ? reject(error) : resolve());
      }),
  );
  return { done, finish: (error?: Error) => finish(error) };
}

test('as many as there are slots run, the others in their order, also after failures', async () => {
  const slots = new Slots(2, 10);
  const log: string[] = [];
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((name) => held(slots, log, name));
  expect(log).toEqual(['a', 'b']);
  b?.finish(new Error('no'));
  await expect(b?.done).rejects.toThrow('no');
  expect(log).toEqual(['a', 'b', 'c']);
  a?.finish();
  await a?.done;
  expect(log).toEqual(['a', 'b', 'c', 'd']);
  c?.finish();
  d?.finish();
  await Promise.all([c?.done, d?.done]);
  await slots.run(async () => log.push('e'));
  expect(log.at(-1)).toBe('e');
});

test('too many that wait are turned away with a hint', async () => {
  const slots = new Slots(1, 1);
  const log: string[] = [];
  const [first, second] = [held(slots, log, 'a'), held(slots, log, 'b')];
  await expect(slots.run(async () => {})).rejects.toMatchObject({
    code: 'OverloadedError',
    context: { waiting: 1, retryAfterMs: 100 },
  });
  first.finish();
  await first.done;
  second.finish();
  await second.done;
});
