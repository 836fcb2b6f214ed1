import { expect, test } from 'vitest';
import { silentLogger } from '../../../runtime/log.ts';
import type { Cursor, GroupHandler } from '../../types.ts';
import type { Delivery } from './delivery.ts';
import { Ownership } from './ownership.ts';

const options = { brokers: [], topic: 't', partitions: 1, replicas: 1, log: silentLogger() };

/** A handler whose calls wait until the test lets them go on, and a fetcher that only keeps what it is given. */
function setup() {
  const calls: string[] = [];
  const open: (() => void)[] = [];
  const deliveries = new Set<Delivery>();
  const call = (name: string) => {
    calls.push(name);
    return new Promise<void>((resolve) => open.push(resolve));
  };
  const handler: GroupHandler = {
    assigned: async (): Promise<Cursor> => {
      await call('assigned');
      return { position: '', offset: '7' };
    },
    batch: () => call('batch'),
    gap: () => call('gap'),
    revoked: () => call('revoked'),
  };
  const fetcher = {
    add: (delivery: Delivery) => void deliveries.add(delivery),
    remove: (delivery: Delivery) => void deliveries.delete(delivery),
    wake: () => {},
  };
  const go = async () => {
    await idle();
    open.shift()?.();
    await idle();
  };
  return { calls, deliveries, go, ownership: new Ownership(0, handler, fetcher, options) };
}

const idle = () => new Promise((resolve) => setImmediate(resolve));
const ours = () => new Map([[0, Symbol('ours')]]);

test('nothing is fetched before the handler has said where to go on from', async () => {
  const { calls, deliveries, go, ownership } = setup();
  ownership.want(ours());
  expect(calls).toEqual(['assigned']);
  expect(deliveries.size).toBe(0);
  await go();
  expect([...deliveries].map(({ next }) => next)).toEqual([7n]);
});

test('a partition that stays ours is not touched', async () => {
  const { calls, go, ownership } = setup();
  const shares = ours();
  ownership.want(shares);
  await go();
  ownership.want(new Map(shares));
  await ownership.settled();
  expect(calls).toEqual(['assigned']);
});

test('a partition that was somebody else’s in between is given up and taken over anew', async () => {
  const { calls, deliveries, go, ownership } = setup();
  ownership.want(ours());
  await go();
  const [before] = deliveries;
  ownership.want(ours());
  await go();
  expect(calls).toEqual(['assigned', 'revoked', 'assigned']);
  expect(deliveries.size).toBe(0);
  await go();
  expect(deliveries.size).toBe(1);
  expect(deliveries).not.toContain(before);
});

test('a partition that is lost while it is being taken over is revoked behind it, and nothing is fetched', async () => {
  const { calls, deliveries, go, ownership } = setup();
  ownership.want(ours());
  ownership.want(new Map());
  expect(calls).toEqual(['assigned']);
  await go();
  expect(calls).toEqual(['assigned', 'revoked']);
  expect(deliveries.size).toBe(0);
  await go();
  await ownership.settled();
});

test('words that cross while the handler is busy end in the last one', async () => {
  const { calls, deliveries, go, ownership } = setup();
  for (let i = 0; i < 5; i++) {
    ownership.want(ours());
    ownership.want(new Map());
  }
  ownership.want(ours());
  for (let i = 0; i < 10; i++) await go();
  expect(calls).toEqual(['assigned', 'revoked', 'assigned']);
  expect(deliveries.size).toBe(1);
});
