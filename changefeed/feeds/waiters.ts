/** A wait that ended without its condition having come true. */
export class WaitTimeoutError extends Error {
  constructor(what: string, timeoutMs: number) {
    super(`${what} did not come about within ${timeoutMs} ms`);
    this.name = 'WaitTimeoutError';
  }
}

export interface WaitOptions {
  readonly bucket: string;
  readonly key: string;
  readonly timeoutMs: number;
  /** Ends the wait early; it then rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Waits for objects, found by bucket and key. A change that comes while a waiter's check runs makes the check run
 * again, so none is missed; a waiter leaves nothing behind when it ends.
 */
export class Waiters {
  readonly #byObject = new Map<string, Set<() => void>>();
  readonly #ends = new Set<(reason: unknown) => void>();

  get size(): number {
    return this.#ends.size;
  }

  /** Runs the checks of those who wait for the object. */
  wake(bucket: string, key: string): void {
    const waiting = this.#byObject.get(nameOf(bucket, key));
    if (waiting !== undefined) for (const wake of waiting) wake();
  }

  /** Runs every check: any of the objects may have changed. */
  wakeAll(): void {
    for (const waiting of this.#byObject.values()) for (const wake of waiting) wake();
  }

  /** Ends every wait with `reason`. */
  endAll(reason: unknown): void {
    for (const end of this.#ends) end(reason);
  }

  wait<T>(options: WaitOptions, check: () => Promise<T | undefined>): Promise<T> {
    const { bucket, key, timeoutMs, signal } = options;
    const name = nameOf(bucket, key);
    return new Promise<T>((resolve, reject) => {
      let checking = false;
      let again = false;
      let over = false;

      const leave = () => {
        over = true;
        clearTimeout(timer);
        signal?.removeEventListener('abort', aborted);
        this.#ends.delete(end);
        this.#remove(name, wake);
      };
      const end = (reason: unknown) => {
        if (over) return;
        leave();
        reject(reason);
      };
      const aborted = () => end(signal?.reason);
      const wake = () => {
        if (checking) again = true;
        else void run();
      };
      const run = async () => {
        checking = true;
        try {
          do {
            again = false;
            const answer = await check();
            if (over) return;
            if (answer !== undefined) {
              leave();
              resolve(answer);
              return;
            }
          } while (again);
        } catch (error) {
          end(error);
        } finally {
          checking = false;
        }
      };
      const timer = setTimeout(() => end(new WaitTimeoutError(`${bucket}/${key}`, timeoutMs)), timeoutMs);

      if (signal?.aborted) return aborted();
      signal?.addEventListener('abort', aborted, { once: true });
      this.#ends.add(end);
      this.#add(name, wake);
      wake();
    });
  }

  #add(name: string, wake: () => void): void {
    const waiting = this.#byObject.get(name);
    if (waiting === undefined) this.#byObject.set(name, new Set([wake]));
    else waiting.add(wake);
  }

  #remove(name: string, wake: () => void): void {
    const waiting = this.#byObject.get(name);
    waiting?.delete(wake);
    if (waiting?.size === 0) this.#byObject.delete(name);
  }
}

function nameOf(bucket: string, key: string): string {
  return `${bucket}/${key}`;
}
