import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** The user that a server runs under when Conger itself is root. */
export interface Account {
  readonly uid: number;
  readonly gid: number;
}

function find(name: string): Account | undefined {
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${name}:`));
  const [, , uid, gid] = line?.split(':') ?? [];
  return uid === undefined || gid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) };
}

/**
 * The account for servers that refuse to run as root: `conger`, which is created where it is missing, else `nobody`.
 * Undefined for an ordinary user, whose servers run as that user.
 */
export function serverAccount(): Account | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const existing = find('conger');
  if (existing !== undefined) return existing;
  const shell = '/usr/sbin/nologin';
  spawnSync('useradd', ['--system', '--user-group', '--no-create-home', '--shell', shell, 'conger']);
  const account = find('conger') ?? find('nobody');
  if (account === undefined)
    throw new Error('there is neither a user conger nor nobody to run PostgreSQL as');
  return account;
}

/** Whether `account` can enter `directory`: every directory above it decides too. */
export function canEnter(directory: string, account: Account | undefined): boolean {
  const probe = spawnSync('/bin/sh', ['-c', 'cd "$1"', 'sh', directory], { ...account, cwd: '/' });
  return probe.status === 0;
}
