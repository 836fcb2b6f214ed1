import { expect, test } from 'vitest';
import { silentLogger } from '../../../runtime/log.ts';
import { record } from '../../testing/records.ts';
import { Watched } from '../../testing/until.ts';
import { Pump } from './pump.ts';
import type { Fetched, Place } from './rows.ts';

/** A partition that answers what it is told to, one fetch after the other, and what a pump makes of it. */
class Partition extends Watched {
  readonly asked: string[] = [];
  readonly told: string[] = [];
  readonly #answers: Fetched[] = [];
  readonly pump = new Pump({
    fetch: async ([place]: readonly Place[]) => {
      this.asked.push(place?.position ?? '');
      const answer = this.#answers.shift() ?? { records: [], more: false, gap: false, trimmed: '' };
      setImmediate(() => this.changed());
      return new Map([[0, answer]]);
    },
    deliver: ({ records }) => void this.told.push(...records.map(({ position }) => position)),
    gap: () => void this.told.push('gap'),
    log: silentLogger(),
  });

  /** Rings, or does what else makes the pump look, and answers where it looked. */
  async look(answer: Fetched, ring = () => this.pump.ring()): Promise<string | undefined> {
    const before = this.asked.length;
    this.#answers.push(answer);
    ring();
    await this.until(() => this.asked.length > before);
    return this.asked[before];
  }
}

const [first, second] = [record(1, 0), record(2, 0)];
const nothing = { records: [], more: false };

test('who begins at the oldest record has missed nothing; behind it a gap is one', async () => {
  const one = new Partition();
  const found = { records: [first], more: false, gap: true, trimmed: 'before' };
  expect(await one.look(found, () => one.pump.add(0))).toBe('');
  expect(one.told).toEqual([first.position]);
  expect(await one.look({ ...found, records: [second] })).toBe(first.position);
  await one.until(() => one.told.length === 3);
  expect(one.told).toEqual([first.position, 'gap', second.position]);
  await one.pump.close();
});

test.each(['', 'before'])(
  'who began where there was nothing stands behind what was trimmed: "%s"',
  async (trimmed) => {
    const one = new Partition();
    await one.look({ ...nothing, gap: trimmed !== '', trimmed }, () => one.pump.add(0));
    expect(await one.look({ records: [second], more: false, gap: true, trimmed: first.position })).toBe(
      trimmed,
    );
    await one.until(() => one.told.length === 2);
    expect(one.told).toEqual(['gap', second.position]);
    await one.pump.close();
  },
);
