import { CongerError, isCongerError } from '../../runtime/errors.ts';
import { failpoint } from '../../runtime/failpoints.ts';
import { type Broadcast, ending } from '../broadcast.ts';
import type { Change } from '../types.ts';
import type { FeedCursor } from './cursor.ts';
import { overtaken, type RingReader } from './reader.ts';

/** What a reader is sent. Resuming from `cursor` goes on right after the message. */
export type FeedMessage<Item, Event> =
  | { readonly type: 'snapshot'; readonly items: readonly Item[]; readonly cursor: FeedCursor }
  | { readonly type: 'event'; readonly event: Event; readonly cursor: FeedCursor }
  /** Nothing for this reader up to the cursor. */
  | { readonly type: 'bookmark'; readonly cursor: FeedCursor }
  /** The last message: why the feed ends. No cursor where the snapshot was not wholly taken: begin anew. */
  | { readonly type: 'end'; readonly error: CongerError; readonly cursor: FeedCursor | undefined };

export interface FeedOptions<Item, Event> {
  readonly broadcast: Broadcast;
  /** Reads everything that the feed is about; `found.snapshot` is the read's PostgreSQL snapshot (kvstore's `find`). */
  readonly snapshot?:
    | (() => Promise<{ readonly items: readonly Item[]; readonly found: { readonly snapshot: string } }>)
    | undefined;
  /** The event that a change is to this reader, or undefined where it is none. */
  readonly select: (change: Change) => Event | undefined;
  /** Resume right after this cursor. Where it is gone: a snapshot if `snapshot` is given, else PositionGone. */
  readonly since?: FeedCursor | undefined;
  /** Passes a message on. A promise holds the next message back; false or a rejection says that the reader is gone. */
  readonly send: (message: FeedMessage<Item, Event>) => boolean | Promise<boolean>;
  /** The shortest time between two bookmarks, in ms (10,000). */
  readonly bookmarkMs?: number;
}

export interface Feed {
  /** Resolves when the feed has ended, with the reason that the last message gave; undefined where the reader left. */
  readonly done: Promise<CongerError | undefined>;
  /** Ends the feed; with an error, that is sent as the last message. */
  close(error?: CongerError): void;
}

const defaultBookmarkMs = 10_000;

/**
 * Snapshot then stream, without a gap: reading the feed begins first, then the snapshot is read and sent, then every
 * change that is not in it. The first message is a snapshot or a bookmark. At rest nothing is sent. A reader that does
 * not keep up with the ring is cut off: its last message is SlowReader, and it resumes from its last cursor. Where
 * changes may have been missed (a new epoch of the log) the last message is PositionGone.
 * @throws CongerError PositionGone, BadRequest (no cursor), before anything is sent
 */
export function openFeed<Item, Event>(options: FeedOptions<Item, Event>): Feed {
  return new RunningFeed(options);
}

/** The reader is gone: there is nobody to tell. */
class ReaderGone extends Error {}

/**
 * One reader's feed. Messages are sent one at a time, in order, and none after the last one.
 */
class RunningFeed<Item, Event> implements Feed {
  readonly done: Promise<CongerError | undefined>;
  readonly #options: FeedOptions<Item, Event>;
  readonly #reader: RingReader;
  readonly #leave: () => void;
  readonly #withSnapshot: boolean;
  /** The first message was taken, so that the reader's cursor stands for something. */
  #begun = false;
  /** Changes went by since the last message. */
  #passedBy = false;
  #bookmarkDue = false;
  #bookmarkTimer: NodeJS.Timeout | undefined;
  #woken = false;
  #resume: (() => void) | undefined;
  #ended: Error | undefined;
  #interrupt: ((error: Error) => void) | undefined;

  constructor(options: FeedOptions<Item, Event>) {
    this.#options = options;
    const { broadcast, since, snapshot } = options;
    const wake = () => this.#wake();
    let resumed = since !== undefined;
    let opened: ReturnType<Broadcast['read']>;
    try {
      opened = broadcast.read(since, wake);
    } catch (error) {
      if (snapshot === undefined || !isCongerError(error, 'PositionGone')) throw error;
      resumed = false;
      opened = broadcast.read(undefined, wake);
    }
    this.#reader = opened.reader;
    this.#leave = opened.close;
    this.#withSnapshot = !resumed && snapshot !== undefined;
    this.done = this.#run();
  }

  close(error?: CongerError): void {
    this.#end(error ?? new ReaderGone());
  }

  async #run(): Promise<CongerError | undefined> {
    // Whoever opens the feed has it in hand before the first message.
    await Promise.resolve();
    try {
      await this.#begin();
      for (;;) {
        await this.#drain();
        await this.#rest();
      }
    } catch (error) {
      return this.#finish(error);
    } finally {
      clearTimeout(this.#bookmarkTimer);
      this.#leave();
    }
  }

  async #begin(): Promise<void> {
    const { snapshot } = this.#options;
    if (!this.#withSnapshot || snapshot === undefined) {
      return this.#send({ type: 'bookmark', cursor: this.#reader.cursor() });
    }
    await failpoint('feed.snapshot.before');
    const { items, found } = await this.#unlessEnded(snapshot());
    await failpoint('feed.snapshot.after');
    this.#reader.leaveOut(found.snapshot);
    await this.#send({ type: 'snapshot', items, cursor: this.#reader.cursor() });
  }

  async #drain(): Promise<void> {
    this.#woken = false;
    for (;;) {
      if (this.#ended !== undefined) throw this.#ended;
      const before = this.#reader.sequence;
      const change = this.#reader.next();
      if (this.#reader.sequence !== before) this.#passedBy = true;
      if (change === undefined) return;
      const event = this.#options.select(change);
      if (event !== undefined) await this.#send({ type: 'event', event, cursor: this.#reader.cursor() });
    }
  }

  /** Until there is something to do. */
  async #rest(): Promise<void> {
    if (this.#bookmarkDue) {
      this.#bookmarkDue = false;
      if (this.#passedBy) await this.#send({ type: 'bookmark', cursor: this.#reader.cursor() });
    } else if (this.#passedBy) {
      this.#bookmarkTimer ??= setTimeout(() => {
        this.#bookmarkTimer = undefined;
        this.#bookmarkDue = true;
        this.#goOn();
      }, this.#options.bookmarkMs ?? defaultBookmarkMs);
    }
    if (this.#woken) return;
    await this.#unlessEnded(
      new Promise<void>((resolve) => {
        this.#resume = resolve;
      }),
    );
  }

  async #send(message: FeedMessage<Item, Event>): Promise<void> {
    this.#passedBy = false;
    await failpoint('feed.send.before');
    const answer = this.#options.send(message);
    const taken = typeof answer === 'boolean' ? answer : await this.#unlessEnded(answer.catch(() => false));
    if (!taken) throw new ReaderGone();
    await failpoint('feed.send.after');
    this.#begun = true;
  }

  /** Awaits `work`, unless the feed ends first. */
  #unlessEnded<T>(work: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#ended !== undefined) reject(this.#ended);
      this.#interrupt = reject;
      work.then(resolve, reject);
    });
  }

  #wake(): void {
    if (this.#options.broadcast.stopped) this.#end(ending());
    else if (this.#reader.overtaken) this.#end(overtaken());
    else this.#goOn();
  }

  #goOn(): void {
    this.#woken = true;
    this.#resume?.();
  }

  #end(error: Error): void {
    this.#ended ??= error;
    this.#interrupt?.(this.#ended);
  }

  #finish(cause: unknown): CongerError | undefined {
    this.#ended ??= new ReaderGone();
    if (cause instanceof ReaderGone) return undefined;
    const error = isCongerError(cause)
      ? cause
      : new CongerError('InternalError', 'the feed failed; resume from the last cursor', { cause });
    const answer = this.#options.send({
      type: 'end',
      error,
      cursor: this.#begun ? this.#reader.cursor() : undefined,
    });
    // A reader that takes nothing more cannot be told.
    if (typeof answer !== 'boolean') answer.catch(() => false);
    return error;
  }
}
