import { spawnSync } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

let root: string;

const lock = (version: string) => ({
  packages: {
    '': {},
    'node_modules/typescript': { version, integrity: `sha512-${version}` },
    'node_modules/elsewhere': { version: '1.0.0', optional: true, os: ['nowhere'] },
  },
});

/** Stands in for npm: installs a compiler that copies nothing and takes note of each run. */
const npm = `
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
console.log('NPM ' + process.argv.slice(2, 4).join(' '));
if (process.env.BROKEN_NPM) process.exit(1);
mkdirSync('node_modules/typescript/bin', { recursive: true });
writeFileSync('node_modules/typescript/bin/tsc', \`
  const { mkdirSync, writeFileSync } = require('node:fs');
  console.log('TSC');
  mkdirSync('dist/src', { recursive: true });
  writeFileSync('dist/src/a.js', '');
  process.exit(Number(process.env.BROKEN_TSC ?? 0));
\`);
const wanted = JSON.parse(readFileSync('package-lock.json', 'utf8'));
delete wanted.packages[''];
delete wanted.packages['node_modules/elsewhere'];
writeFileSync('node_modules/.package-lock.json', JSON.stringify(wanted));
`;

async function put(path: string, text: string): Promise<void> {
  await mkdir(dirname(join(root, path)), { recursive: true });
  await writeFile(join(root, path), text);
}

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'conger-prepare-'));
  await mkdir(join(root, 'cli'));
  await cp(join(import.meta.dirname, 'prepare.mjs'), join(root, 'cli', 'prepare.mjs'));
  await put('package.json', '{}');
  await put('package-lock.json', JSON.stringify(lock('1.0.0')));
  await put('tsconfig.json', '{"include":["src"]}');
  await put('src/a.ts', '');
  await put('npm.mjs', npm);
});

afterEach(async () => {
  await rm(root, { recursive: true, force: true });
});

/** @returns the exit status and what was done, a word each */
function prepare(env: Record<string, string> = {}): {
  status: number | null;
  done: string[];
  output: string;
} {
  const run = spawnSync(process.execPath, [join(root, 'cli', 'prepare.mjs')], {
    encoding: 'utf8',
    env: { PATH: process.env.PATH, npm_execpath: join(root, 'npm.mjs'), ...env },
  });
  const done = run.stdout.split('\n').filter((line) => /^[A-Z]{3}/.test(line));
  return { status: run.status, done, output: run.stdout + run.stderr };
}

const npmCi = 'NPM ci --ignore-scripts';

async function touchLater(path: string): Promise<void> {
  const later = new Date(Date.now() + 60_000);
  await utimes(join(root, path), later, later);
}

describe('what runs before npm start', () => {
  it('installs and builds the first time, and does nothing and says nothing the next', () => {
    expect(prepare()).toMatchObject({ status: 0, done: [npmCi, 'TSC'] });
    expect(prepare()).toEqual({ status: 0, done: [], output: '' });
  });

  it('installs again when the lockfile asks for something else, not when it is merely newer', async () => {
    prepare();
    await touchLater('package-lock.json');
    expect(prepare().done).toEqual([]);
    await put('package-lock.json', JSON.stringify(lock('2.0.0')));
    expect(prepare().done).toEqual([npmCi]);
  });

  it('builds again when a source is newer, not when a test is', async () => {
    prepare();
    await put('src/a.test.ts', '');
    await touchLater('src/a.test.ts');
    expect(prepare().done).toEqual([]);
    await touchLater('src/a.ts');
    expect(prepare().done).toEqual(['TSC']);
  });

  it('leaves nothing in dist of a source that is gone', async () => {
    await put('src/b.ts', '');
    prepare();
    await put('dist/src/b.js', '');
    await rm(join(root, 'src/b.ts'));
    expect(prepare().done).toEqual(['TSC']);
    await expect(readFile(join(root, 'dist/src/b.js'))).rejects.toThrow('ENOENT');
  });

  it('stops where a step fails, and does that step again the next time', () => {
    const noNpm = prepare({ BROKEN_NPM: '1' });
    expect(noNpm).toMatchObject({ status: 1, done: [npmCi] });
    expect(noNpm.output).toContain('npm ci failed');
    expect(prepare({ BROKEN_TSC: '2' })).toMatchObject({ status: 1, done: [npmCi, 'TSC'] });
    expect(prepare()).toMatchObject({ status: 0, done: ['TSC'] });
  });
});
