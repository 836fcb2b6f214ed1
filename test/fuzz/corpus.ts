import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { projectRoot } from '../../runtime/root.ts';

/**
 * Inputs worth trying again, a file each: what reached code that nothing before it had reached, and everything that
 * ever failed. `.hex` files hold bytes, all others text as it is.
 */
export type Notation = 'hex' | 'txt';

const root = join(projectRoot(), 'test', 'fuzz', 'corpus');

/** The inputs of `name`, in the order of their files' names. */
export async function readCorpus(name: string): Promise<Buffer[]> {
  const directory = join(root, name);
  const files = (await readdir(directory).catch(() => [])).sort();
  return Promise.all(
    files.map(async (file) => {
      const content = await readFile(join(directory, file));
      return file.endsWith('.hex') ? Buffer.from(content.toString().replace(/\s/g, ''), 'hex') : content;
    }),
  );
}

/** Answers the path of the file. */
export async function addToCorpus(
  name: string,
  prefix: string,
  notation: Notation,
  input: Buffer,
): Promise<string> {
  const digest = createHash('sha256').update(input).digest('hex').slice(0, 12);
  const path = join(root, name, `${prefix}${digest}.${notation}`);
  await mkdir(join(root, name), { recursive: true });
  await writeFile(path, notation === 'hex' ? `${input.toString('hex')}\n` : input);
  return path;
}
