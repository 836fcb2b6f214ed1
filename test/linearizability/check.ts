import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { z } from 'zod';
import { projectRoot } from '../../runtime/root.ts';
import { cacheDirectory, findGo, goBuild } from './go.ts';

const verdict = z.object({
  key: z.string(),
  operations: z.number(),
  unknown: z.number(),
  verdict: z.enum(['ok', 'illegal', 'unknown']),
  /** Porcupine's drawing of what is illegal: a page of HTML. */
  picture: z.string().optional(),
});

/** What porcupine says of the operations of one key; `unknown`: it has not decided in time. */
export type Verdict = z.output<typeof verdict>;

/** Builds the checker where its sources are not those that it was last built from, and answers its path. */
export async function buildChecker(say: (line: string) => void = () => {}): Promise<string> {
  const sources = join(projectRoot(), 'test', 'linearizability', 'checker');
  const hash = createHash('sha256');
  for (const name of (await readdir(sources)).sort())
    hash.update(name).update(await readFile(join(sources, name)));
  const binary = cacheDirectory(`linearizability-${hash.digest('hex').slice(0, 12)}`);
  if (existsSync(binary)) return binary;
  const go = await findGo(say);
  await mkdir(dirname(binary), { recursive: true });
  const draft = `${binary}.${process.pid}`;
  try {
    await goBuild(go, sources, draft);
    await rename(draft, binary);
  } finally {
    await rm(draft, { force: true });
  }
  return binary;
}

/** Whether histories can be checked here. With CI set that is always so, and a failure where something is missing. */
export async function checkerAvailable(): Promise<boolean> {
  if (process.env.CI) return true;
  return buildChecker().then(
    () => true,
    () => false,
  );
}

/**
 * Checks a history (see history.ts) with porcupine, and answers a verdict a key.
 * @param pictures directory for porcupine's pictures of what is illegal
 */
export async function check(
  historyPath: string,
  pictures: string,
  options: { readonly seconds?: number; readonly say?: (line: string) => void } = {},
): Promise<Verdict[]> {
  const binary = await buildChecker(options.say);
  const args = ['-timeout', `${options.seconds ?? 60}s`, '-pictures', pictures, historyPath];
  const child = spawn(binary, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const [out, err, status] = await Promise.all([text(child.stdout), text(child.stderr), ended]);
  const verdicts = out
    .split('\n')
    .filter(Boolean)
    .map((line) => verdict.parse(JSON.parse(line)));
  const expected = verdicts.some((v) => v.verdict === 'illegal')
    ? 1
    : verdicts.some((v) => v.verdict === 'unknown')
      ? 2
      : 0;
  if (status !== expected || verdicts.length === 0) {
    throw new Error(`the checker ended with ${status}: ${err.trim()}`);
  }
  return verdicts;
}
