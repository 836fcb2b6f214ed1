import { open, readFile, rename, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';

/** Writes a file so that a crash at any moment leaves either the old content or the new. */
export async function writeAtomically(path: string, content: string): Promise<void> {
  const temporary = `${path}.new`;
  const file = await open(temporary, 'w', 0o600);
  try {
    await file.writeFile(content);
    await file.datasync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
  const folder = await open(dirname(path), 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** The file's content, or null where there is none. */
export async function readIfThere(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

/**
 * Keeps one file equal to what `render` says. At most one write is under way; a call of `save` while it runs is
 * served by one further write. So every `save` resolves only once what it was called for is on the disk.
 */
export class SavedFile {
  readonly #path: string;
  readonly #render: () => string;
  #running: Promise<void> | null = null;
  #next: Promise<void> | null = null;

  constructor(path: string, render: () => string) {
    this.#path = path;
    this.#render = render;
  }

  read(): Promise<string | null> {
    return readIfThere(this.#path);
  }

  save(): Promise<void> {
    if (this.#running === null) {
      this.#running = writeAtomically(this.#path, this.#render()).finally(() => {
        this.#running = null;
      });
      return this.#running;
    }
    this.#next ??= this.#running
      .catch(() => {})
      .then(() => {
        this.#next = null;
        return this.save();
      });
    return this.#next;
  }

  async remove(): Promise<void> {
    await unlink(this.#path).catch(() => {});
  }
}
