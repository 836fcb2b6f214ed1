import { watch } from 'node:fs';
import { basename, dirname } from 'node:path';
import { messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';

/**
 * Tells whoever listens that a file may have been replaced. Its directory is watched, as a file that is written whole
 * and renamed into place is another file each time.
 */
export class FileWatch {
  readonly #listeners = new Set<() => void>();
  readonly #close: () => void;

  constructor(path: string, log: Logger) {
    if (path === '') {
      this.#close = () => {};
      return;
    }
    const watcher = watch(dirname(path), (_event, name) => {
      if (name === basename(path)) for (const listener of this.#listeners) listener();
    });
    watcher.on('error', (error) => log.warn({ err: error }, `${path} is not watched: ${messageOf(error)}`));
    this.#close = () => watcher.close();
  }

  /** Calls `listener` from now on, until the answered function is called. */
  listen(listener: () => void): () => void {
    // A function of its own, so that one listener may listen twice.
    const own = () => listener();
    this.#listeners.add(own);
    return () => this.#listeners.delete(own);
  }

  close(): void {
    this.#listeners.clear();
    this.#close();
  }
}
