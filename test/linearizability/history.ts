import { createWriteStream } from 'node:fs';
import { finished } from 'node:stream/promises';

/** What is asked of the object before a write: nothing, that there is none, that it has the etag `want`. */
export type Check = 'any' | 'none' | 'etag';

/**
 * How an operation ended. `unknown`: it may take effect at any time after its start, or never; `failed`: the answer says
 * that it had no effect. The others are answers about the object.
 */
export type Outcome = 'ok' | 'conflict' | 'missing' | 'unknown' | 'failed';

/**
 * One attempt of a client at one object, a line of the history that checker/ reads. Values are named by who wrote them
 * (`<client>.<number>`), so that no two puts write the same.
 */
export interface Operation {
  readonly client: number;
  readonly key: string;
  readonly op: 'get' | 'put' | 'delete';
  /** Nanoseconds since the run began: before the request was sent, after its answer came. */
  readonly start: number;
  readonly end: number;
  readonly outcome: Outcome;
  /** What a put writes, and its etag. */
  readonly value?: string;
  readonly etag?: string;
  readonly check?: Check;
  readonly want?: string;
  /** What a get answered; of a conflict: whether there is an object, and its etag. */
  readonly exists?: boolean;
  readonly foundValue?: string;
  readonly foundEtag?: string;
  /** Through which server, and the error that was met: for who reads the history. */
  readonly server?: string;
  readonly error?: string;
}

/** Writes a history as checker/ reads it: a line of JSON an operation. */
export async function writeHistory(path: string, history: readonly Operation[]): Promise<void> {
  const out = createWriteStream(path);
  for (const operation of history) out.write(`${JSON.stringify(operation)}\n`);
  out.end();
  await finished(out);
}
