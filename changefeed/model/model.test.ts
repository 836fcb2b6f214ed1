import { execFile } from 'node:child_process';
import { copyFile, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { findCommand, isInstalled } from '../../cli/install.ts';

const run = promisify(execFile);

/** Checks a model exhaustively; answers what went wrong, or undefined where nothing can. */
async function check(model: string, defines: readonly string[]): Promise<string | undefined> {
  const directory = await mkdtemp(join(tmpdir(), 'conger-model-'));
  const options = { cwd: directory, maxBuffer: 16 * 1024 * 1024 };
  try {
    await copyFile(fileURLToPath(new URL(model, import.meta.url)), join(directory, model));
    const flags = defines.map((define) => `-D${define}`);
    await run(findCommand('spin') ?? 'spin', ['-a', ...flags, model], options);
    const compiler = findCommand('gcc') ?? 'cc';
    await run(compiler, ['-w', '-O2', '-DSAFETY', '-DCOLLAPSE', '-o', 'pan', 'pan.c'], options);
    const { stdout } = await run(join(directory, 'pan'), ['-m1000000'], options);
    const [, violation] = /^pan:\d+: (.*)$/m.exec(stdout) ?? [];
    // A search that was cut short has shown nothing.
    if (violation === undefined && !/errors: 0$/m.test(stdout)) {
      throw new Error(`${model} was not searched to its end: ${stdout}`);
    }
    return violation;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

describe.skipIf(!process.env.CI && !(await isInstalled('model')))(
  'the protocol, in every interleaving',
  { timeout: 300_000 },
  () => {
    test.each([
      ['takeover.pml', ['N=2']],
      ['takeover.pml', ['N=2', 'FENCED']],
      ['checkpoint.pml', []],
    ])('%s %j holds', async (model, defines) => {
      expect(await check(model, defines)).toBeUndefined();
    });

    test.each([
      ['takeover.pml', 'M_NO_DROP'],
      ['takeover.pml', 'M_ONE_TAIL'],
      ['takeover.pml', 'M_CONFIRM_EARLY'],
      ['takeover.pml', 'M_NO_OPENING'],
      ['takeover.pml', 'M_NO_EPOCH_CHECK'],
      ['takeover.pml', 'M_NO_VISIBILITY'],
      ['checkpoint.pml', 'M_NO_ETAG'],
      ['checkpoint.pml', 'M_SEPARATE'],
      ['checkpoint.pml', 'M_ASSUME_COMMITTED'],
    ])('%s fails with %s', async (model, precaution) => {
      expect(await check(model, ['N=2', precaution])).toMatch(/assertion violated/);
    });
  },
);
