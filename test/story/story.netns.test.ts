import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { kafkaAvailable } from '../fixtures/kafka.ts';
import { netnsAvailable } from '../fixtures/netns.ts';
import { runStory } from './story.ts';

const logs = [
  { log: 'the embedded log', kafka: false, available: true },
  { log: 'Kafka', kafka: true, available: await kafkaAvailable() },
];
const netns = await netnsAvailable();

describe.each(logs)('the story on $log', ({ kafka, available }) => {
  test.skipIf(!available || !netns)('is true while processes are killed', { timeout: 600_000 }, async () => {
    const home = await mkdtemp(join(tmpdir(), 'conger-story-'));
    const lines: string[] = [];
    try {
      const report = await runStory({ seed: 1, kafka, home, say: (line) => lines.push(line) });
      expect(report.faults).toHaveLength(8);
      expect(report.changes).toBeGreaterThan(10);
    } catch (error) {
      throw new Error(`${(error as Error).message}\nseed 1, logs in ${home}/logs\n${lines.join('\n')}`, {
        cause: error,
      });
    }
  });
});
