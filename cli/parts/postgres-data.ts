import { type SpawnOptions, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  chmod,
  chown,
  lstat,
  mkdir,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Account, canEnter } from './account.ts';
import { type PostgresBinaries, sharedDirectory } from './postgres-binaries.ts';

/** Runs a tool to its end. @throws Error with what it printed */
export function runTool(
  file: string,
  args: readonly string[],
  options: { readonly account?: Account | undefined; readonly input?: string } = {},
): Promise<string> {
  const spawnOptions: SpawnOptions = { ...options.account, cwd: '/', stdio: 'pipe' };
  return new Promise((resolve, reject) => {
    const child = spawn(file, [...args], { ...spawnOptions, env: toolEnvironment() });
    let output = '';
    child.stdout?.on('data', (chunk) => {
      output += chunk;
    });
    child.stderr?.on('data', (chunk) => {
      output += chunk;
    });
    child.once('error', reject);
    child.once('close', (code) => {
      if (code === 0) resolve(output);
      else reject(new Error(`${file} failed (${code}): ${output.trim()}`));
    });
    child.stdin?.on('error', () => {});
    child.stdin?.end(options.input ?? '');
  });
}

/** Nothing of the caller's locale or PG* variables reaches PostgreSQL. */
export function toolEnvironment(): NodeJS.ProcessEnv {
  return { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' };
}

/**
 * The directory under which PostgreSQL's data lies: `directory`, or, where `account` cannot enter that, one under
 * /var/lib/conger, whose name `directory` then holds in the file `location`. A new `directory` never finds the data of
 * an older one at the same path.
 */
export async function placeData(
  directory: string,
  account: Account | undefined,
  say: (line: string) => void,
): Promise<string> {
  await mkdir(directory, { recursive: true });
  if (account === undefined) return directory;
  const location = join(directory, 'location');
  const known = await readFile(location, 'utf8').catch(() => undefined);
  if (known !== undefined) return known.trim();
  await chown(directory, account.uid, account.gid);
  if (canEnter(directory, account)) return directory;
  const hash = createHash('sha256')
    .update(await realpath(directory))
    .digest('hex');
  const place = join(sharedDirectory, `${hash.slice(0, 12)}-${randomBytes(3).toString('hex')}`);
  await mkdir(sharedDirectory, { recursive: true, mode: 0o755 });
  await chmod(sharedDirectory, 0o755);
  await mkdir(place, { mode: 0o700 });
  await chown(place, account.uid, account.gid);
  await writeFile(location, `${place}\n`);
  say(`PostgreSQL's user cannot enter ${directory}: its data lies in ${place}`);
  return place;
}

/** Removes a stopped cluster, wherever `placeData` has put its data. */
export async function removeData(directory: string): Promise<void> {
  const moved = await readFile(join(directory, 'location'), 'utf8').catch(() => '');
  // The file's text decides what is deleted: only a directory that can be one of ours is.
  const place = moved.trim();
  if (dirname(place) === sharedDirectory) await rm(place, { recursive: true, force: true });
  await rm(directory, { recursive: true, force: true });
}

/** The account that owns the cluster in `data`, where root finds one that an ordinary user made. */
export async function ownerOf(data: string, account: Account | undefined): Promise<Account | undefined> {
  if (account === undefined) return undefined;
  const there = await stat(data).catch(() => undefined);
  return there === undefined || there.uid === 0 ? account : { uid: there.uid, gid: there.gid };
}

/**
 * Makes the cluster in `data`, unless it is there: a database `conger` of a role `conger`, which may replicate but is
 * no superuser and is the only one that may connect, from this machine only.
 */
export async function initialise(
  binaries: PostgresBinaries,
  data: string,
  account: Account | undefined,
  options: { readonly sync: boolean },
): Promise<boolean> {
  const there = await lstat(data).catch(() => undefined);
  if (there !== undefined) return false;
  const draft = `${data}.new`;
  await rm(draft, { recursive: true, force: true });
  const args = ['-D', draft, '-U', 'postgres', '-E', 'UTF8', '--locale=C', '--auth=reject'];
  await runTool(binaries.initdb, options.sync ? args : [...args, '--no-sync'], { account });
  const roles = [
    'create role conger login replication createdb;',
    'grant pg_monitor, pg_checkpoint, pg_signal_backend to conger;',
    'create database conger owner conger;',
  ].join('\n');
  await runTool(binaries.postgres, ['--single', '-D', draft, 'postgres'], { account, input: `${roles}\n` });
  const access = ['all', 'replication'].map((what) => `host ${what} conger 127.0.0.1/32 trust\n`).join('');
  await writeFile(join(draft, 'pg_hba.conf'), access);
  // Only a cluster that is complete ever stands at `data`.
  await rename(draft, data);
  return true;
}
