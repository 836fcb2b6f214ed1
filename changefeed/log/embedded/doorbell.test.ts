import { expect, test } from 'vitest';
import { silentLogger } from '../../../runtime/log.ts';
import type { PrimaryFinder } from '../../../runtime/postgres/primary.ts';
import { Watched } from '../../testing/until.ts';
import { Doorbell } from './doorbell.ts';

/** Says that the primary is where nobody listens, and counts who asks to be told of another. */
class Astray extends Watched implements PrimaryFinder {
  readonly hosts = 2;
  readonly standbys = [];
  readonly current = { url: 'postgresql://conger@127.0.0.1:1/conger', timeline: 1 };
  readonly listeners = new Set<() => void>();
  asked = 0;

  async primary() {
    this.asked++;
    this.changed();
    return this.current;
  }

  suspect(): void {}

  onChange(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  async close(): Promise<void> {}
}

test('attempts to listen that fail leave nothing behind', async () => {
  const finder = new Astray();
  const doorbell = new Doorbell(finder, ['channel'], silentLogger());
  const opening = doorbell.open();
  await finder.until(() => finder.asked >= 4);
  expect(finder.listeners.size).toBe(0);
  await doorbell.close();
  await opening;
});
