import { execFile } from 'node:child_process';
import { chmod, chown, mkdir, mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type Account, serverAccount } from '../../cli/parts/account.ts';

const run = promisify(execFile);

/** Why no file system can be mounted here; undefined where one can. */
export function missingForDisks(): string | undefined {
  return process.platform === 'linux' && process.getuid?.() === 0 ? undefined : 'it needs root on Linux';
}

/** A file system of its own, in memory, that can be filled to its last byte and emptied again. */
export class SmallDisk {
  /** Where PostgreSQL's account may write. */
  readonly directory: string;
  readonly #mount: string;

  private constructor(mount: string) {
    this.#mount = mount;
    this.directory = join(mount, 'data');
  }

  static async make(megabytes: number): Promise<SmallDisk> {
    const mount = await mkdtemp(join(tmpdir(), 'conger-disk-'));
    const account: Account | undefined = serverAccount();
    try {
      await run('mount', ['-t', 'tmpfs', '-o', `size=${megabytes}m`, 'tmpfs', mount]);
    } catch (error) {
      await rm(mount, { recursive: true });
      throw error;
    }
    const disk = new SmallDisk(mount);
    await chmod(mount, 0o755);
    await mkdir(disk.directory, { mode: 0o700 });
    if (account !== undefined) await chown(disk.directory, account.uid, account.gid);
    return disk;
  }

  /** Resolves when no byte is left. */
  async fill(): Promise<void> {
    const ballast = await open(join(this.#mount, 'ballast'), 'w');
    try {
      for (let size = 1024 * 1024; size >= 4096; size /= 16) {
        const block = Buffer.alloc(size, 1);
        try {
          for (;;) await ballast.writeFile(block);
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
        }
      }
    } finally {
      await ballast.close();
    }
  }

  async empty(): Promise<void> {
    await rm(join(this.#mount, 'ballast'), { force: true });
  }

  /** What still has files of it open keeps it until it ends. */
  async remove(): Promise<void> {
    await run('umount', ['-l', this.#mount]);
    await rm(this.#mount, { recursive: true });
  }
}
