import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Fixtures, startFixtures } from './fixtures.ts';
import { run } from './run.ts';
import { scenarios } from './scenarios.ts';

const scenario = scenarios.find(({ name }) => name === 'short')!;
const seeds = Array.from({ length: 10 }, (_, i) => i + 1);

/** The runs of the default suite on one log. */
export function shortForm(log: 'embedded' | 'kafka', available: boolean): void {
  describe.skipIf(!available)(`the changefeed keeps its promises on the ${log} log`, () => {
    let fixtures: Fixtures;

    beforeAll(async () => {
      fixtures = await startFixtures({ log });
    }, 300_000);
    afterAll(() => fixtures?.stop());

    test.each(seeds)('while things break, with seed %i', { timeout: 600_000 }, async (seed) => {
      const directory = await mkdtemp(join(tmpdir(), 'conger-chaos-'));
      const where = `seed ${seed}; history and logs: ${directory}`;
      const report = await run({ seed, scenario, fixtures, directory }).catch((error: unknown) => {
        throw new Error(where, { cause: error });
      });
      expect(report.violations, where).toEqual([]);
      expect(report.changes, where).toBeGreaterThan(50);
      expect(report.faults.length, where).toBeGreaterThan(0);
      await rm(directory, { recursive: true });
    });
  });
}
