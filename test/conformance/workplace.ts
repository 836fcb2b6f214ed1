import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface Workplace {
  /** Where the suite's `test` directory and what it needs are. */
  readonly directory: string;
  remove(): Promise<void>;
}

/** The client under test. */
const client = { moray: '4.1.4' };

/**
 * What node-fast needs, in forms that install without a compiler: its CRC comes from a git repository, which is this
 * package of the registry, and only later versions of its clock bring their binaries.
 */
const overrides = { oldcrc: 'npm:crc@0.3.0', microtime: '3.0.0' };

/** libuuid has no binding for today's Node; of it the suite wants a UUID only. */
const libuuid = `exports.create = () => require('node:crypto').randomUUID();\n`;

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/**
 * A place to run the suite in: its checkout, where its packages and its client are installed there already
 * (`npm install`, `tools/configure`), else a temporary copy of its tests with packages of its own. The checkout itself
 * is only read.
 */
export async function prepareWorkplace(suite: string): Promise<Workplace> {
  const installed = ['node_modules', join('run', 'client', 'node_modules', 'moray')];
  if ((await Promise.all(installed.map((path) => exists(join(suite, path))))).every(Boolean)) {
    return { directory: suite, remove: async () => {} };
  }
  const directory = await mkdtemp(join(tmpdir(), 'conger-moray-suite-'));
  const remove = () => rm(directory, { recursive: true, force: true });
  try {
    await install(suite, directory);
    return { directory, remove };
  } catch (error) {
    await remove();
    throw error;
  }
}

async function install(suite: string, directory: string): Promise<void> {
  const { dependencies } = JSON.parse(await readFile(join(suite, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  await cp(join(suite, 'test'), join(directory, 'test'), { recursive: true });
  const standIn = join(directory, 'libuuid');
  await mkdir(standIn);
  await writeFile(
    join(standIn, 'package.json'),
    JSON.stringify({ name: 'libuuid', version: '0.2.1', main: 'index.js' }),
  );
  await writeFile(join(standIn, 'index.js'), libuuid);
  await writeFile(
    join(directory, 'package.json'),
    JSON.stringify({
      private: true,
      dependencies: { ...dependencies, libuuid: 'file:./libuuid', ...client },
      overrides,
    }),
  );
  await run('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: directory });
  // The suite looks for the client's programs where its own tool would have installed them.
  const programs = join(directory, 'node_modules', 'moray', 'bin');
  await mkdir(join(directory, 'run', 'client', 'node_modules'), { recursive: true });
  await symlink(programs, join(directory, 'run', 'client', 'node_modules', '.bin'));
}
