import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { buildChecker, checkerAvailable } from './check.ts';
import { run } from './run.ts';

const available = await checkerAvailable();

describe.skipIf(!available)('what clients see is linearizable', () => {
  beforeAll(async () => {
    await buildChecker();
  }, 600_000);

  test.each([
    { fault: 'server', seed: 1, faults: 2 },
    { fault: 'network', seed: 1, faults: 3 },
    { fault: 'postgres', seed: 1, faults: 2 },
    { fault: 'all', seed: 7, faults: 3 },
    { fault: 'failover:kill', seed: 1, faults: 1 },
  ])('$fault, faults: $faults, seed: $seed', { timeout: 600_000 }, async ({ fault, seed, faults }) => {
    const directory = await mkdtemp(join(tmpdir(), 'conger-linearizability-'));
    const where = `seed ${seed}; history, pictures and logs: ${directory}`;
    const report = await run({ seed, fault, faults, directory }).catch((error: unknown) => {
      throw new Error(where, { cause: error });
    });
    expect(report.problems, where).toEqual([]);
    expect(report.faults.length).toBeGreaterThanOrEqual(faults);
    await rm(directory, { recursive: true });
  });
});
