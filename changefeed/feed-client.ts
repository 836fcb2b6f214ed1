import { z } from 'zod';
import { CongerError, type ErrorCode, errorTable, isCongerError, messageOf } from '../runtime/errors.ts';
import { Backoff } from './backoff.ts';
import type { FeedCursor } from './feeds/cursor.ts';
import type { Bookmark, ChangeLine, FeedLine, SnapshotEnd, SnapshotLine } from './feeds/lines.ts';

/**
 * What a follower is told, in order. After `snapshot-begin` comes everything that there is, up to `snapshot-end`: what is
 * not in it is not there any more.
 */
export type FeedEvent =
  | ChangeLine
  | { readonly type: 'snapshot-begin' }
  | SnapshotLine
  | SnapshotEnd
  | Bookmark;

export interface FollowOptions {
  /** Base URLs of the service's instances. */
  readonly urls: readonly string[];
  readonly resource: string;
  readonly filter?: string | undefined;
  /** A cursor to go on from, or a position. Absent: from a snapshot, or from now. */
  readonly since?: string | undefined;
  /** Begin with a snapshot, and take another where the cursor is gone. */
  readonly snapshot?: boolean;
  /** Told of one event at a time; a promise holds the next one back, and in the end the server. */
  readonly onEvent: (event: FeedEvent) => void | Promise<void>;
  /** Told why a connection ended; the next one is being tried. */
  readonly onTrouble?: (error: unknown) => void;
  readonly signal: AbortSignal;
  /**
   * An instance that says nothing for so long is left, in ms (60,000). Bookmarks come every 20 s at least, and spaces every
   * 15 s while a snapshot is waited for.
   */
  readonly silentMs?: number;
}

export interface Following {
  /** Where the follower stands: behind the last event that `onEvent` took. */
  readonly cursor: FeedCursor | undefined;
  /**
   * Resolves when the signal is aborted. Rejects with what trying again does not mend: CongerError PositionGone (without
   * `snapshot`), ResourceNotFound, InvalidQueryError, NotIndexedError, BadRequest; or with what `onEvent` throws.
   */
  readonly done: Promise<void>;
}

/**
 * Follows a feed over any number of instances: a connection that ends, for whatever reason, is followed by one to the
 * next instance that goes on from the last cursor, after a pause that grows, and is drawn at random so that many
 * followers of an instance that died do not all come at once.
 */
export function followFeed(options: FollowOptions): Following {
  return new Follower(options);
}

const errorSchema = z.looseObject({ code: z.string(), message: z.string() });
const lineTypes = ['put', 'delete', 'leave', 'snapshot', 'snapshot-end', 'bookmark', 'error'] as const;
const lineSchema = z.looseObject({ type: z.enum(lineTypes) });
const defaultSilentMs = 60_000;

/** What `onEvent` threw: it is no trouble of the connection's. */
class EventFailed extends Error {}

class Follower implements Following {
  readonly done: Promise<void>;
  readonly #options: FollowOptions;
  readonly #backoff = new Backoff(100, 5_000);
  #cursor: FeedCursor | undefined;
  #inSnapshot = false;

  constructor(options: FollowOptions) {
    this.#options = options;
    this.#cursor = options.since;
    this.done = this.#follow();
  }

  get cursor(): FeedCursor | undefined {
    return this.#cursor;
  }

  async #follow(): Promise<void> {
    const { urls, signal, onTrouble } = this.#options;
    if (urls.length === 0) throw new CongerError('ServiceUnavailable', 'there is no instance to follow');
    for (let at = Math.floor(Math.random() * urls.length); !signal.aborted; at++) {
      try {
        await this.#connection(urls[at % urls.length] ?? '');
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof EventFailed) throw error.cause;
        if (this.#isFinal(error)) throw error;
        onTrouble?.(error);
      }
      await this.#backoff.pause(signal);
    }
  }

  #isFinal(error: unknown): boolean {
    if (!isCongerError(error)) return false;
    if (error.code === 'PositionGone') return this.#options.snapshot !== true;
    return error.status >= 400 && error.status < 500;
  }

  async #connection(url: string): Promise<void> {
    const { resource, filter, snapshot, signal } = this.#options;
    const query = new URLSearchParams({ resource });
    if (filter !== undefined) query.set('filter', filter);
    if (this.#cursor !== undefined) query.set('since', this.#cursor);
    if (snapshot === true) query.set('snapshot', 'true');
    // A snapshot that was broken off is begun anew.
    this.#inSnapshot = false;
    const left = new AbortController();
    const silence = new Silence(this.#options.silentMs ?? defaultSilentMs);
    try {
      const answer = await fetch(new URL(`/feed?${query}`, url), {
        signal: AbortSignal.any([signal, silence.signal, left.signal]),
      });
      if (!answer.ok || answer.body === null) throw await refusal(answer);
      const reader = answer.body.getReader();
      const decoder = new TextDecoder();
      let rest = '';
      for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
        const lines = (rest + decoder.decode(chunk.value, { stream: true })).split('\n');
        rest = lines.pop() ?? '';
        silence.pause();
        for (const line of lines) await this.#take(parseLine(line));
        silence.resume();
      }
      throw new CongerError('ServiceUnavailable', 'the connection was closed');
    } finally {
      silence.pause();
      left.abort();
    }
  }

  async #take(line: FeedLine): Promise<void> {
    if (line.type === 'error') {
      if (line.cursor !== undefined) this.#cursor = line.cursor;
      throw errorOf(line.code, line.message);
    }
    this.#backoff.reset();
    if (line.type === 'snapshot' && !this.#inSnapshot) await this.#tell({ type: 'snapshot-begin' });
    if (line.type === 'snapshot-end' && !this.#inSnapshot) await this.#tell({ type: 'snapshot-begin' });
    this.#inSnapshot = line.type === 'snapshot';
    await this.#tell(line);
    if ('cursor' in line) this.#cursor = line.cursor;
  }

  async #tell(event: FeedEvent): Promise<void> {
    if (this.#options.signal.aborted) throw new Error('not followed any more');
    try {
      await this.#options.onEvent(event);
    } catch (cause) {
      throw new EventFailed('an event was not taken', { cause });
    }
  }
}

/** Aborts its signal once nothing was heard for so long. */
class Silence {
  readonly #ms: number;
  readonly #abort = new AbortController();
  #timer: NodeJS.Timeout | undefined;

  constructor(ms: number) {
    this.#ms = ms;
    this.resume();
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  pause(): void {
    clearTimeout(this.#timer);
  }

  resume(): void {
    this.#timer = setTimeout(() => this.#abort.abort(new Error('the instance is silent')), this.#ms);
  }
}

/** @throws Error where it is no line of a feed */
function parseLine(text: string): FeedLine {
  // A type that is not known is not passed over: it may be a change.
  return lineSchema.parse(JSON.parse(text)) as unknown as FeedLine;
}

async function refusal(answer: Response): Promise<Error> {
  const text = await answer.text();
  try {
    const { code, message } = errorSchema.parse(JSON.parse(text));
    return errorOf(code, message, answer.status);
  } catch (error) {
    return new Error(`answered ${answer.status} with what is no error: ${messageOf(error)}`);
  }
}

function errorOf(code: string, message: string, status?: number): Error {
  if (!Object.hasOwn(errorTable, code)) return new Error(`${code}: ${message}`);
  return new CongerError(code as ErrorCode, message, status === undefined ? {} : { status });
}
