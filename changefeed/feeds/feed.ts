import { CongerError, isCongerError } from '../../runtime/errors.ts';
import { failpoint } from '../../runtime/failpoints.ts';
import { type Broadcast, ending } from '../broadcast.ts';
import type { Change } from '../types.ts';
import type { CatchUp } from './catch-up.ts';
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

export interface FeedSnapshot<Item> {
  readonly items: readonly Item[];
  /** `snapshot` is the PostgreSQL snapshot that the items were read in (kvstore's `find`). */
  readonly found: { readonly snapshot: string };
}

export interface FeedOptions<Item, Event> {
  readonly broadcast: Broadcast;
  /** Reads everything that the feed is about. */
  readonly snapshot?: (() => Promise<FeedSnapshot<Item>>) | undefined;
  /** Where the broadcast stood before the snapshot was begun; absent: it is begun here. */
  readonly snapshotSince?: FeedCursor | undefined;
  /** The event that a change is to this reader, or undefined where it is none. */
  readonly select: (change: Change) => Event | undefined;
  /**
   * Resume right after this cursor, which the ring must reach, or from what `Broadcast.resume` has found. Where it is
   * gone: a snapshot if `snapshot` is given, else PositionGone.
   */
  readonly since?: FeedCursor | CatchUp | undefined;
  /** Passes a message on. A promise holds the next message back; false or a rejection says that the reader is gone. */
  readonly send: (message: FeedMessage<Item, Event>) => boolean | Promise<boolean>;
  /** A bookmark is sent when nothing was for so long, and at the latest after twice as long, in ms (10,000). */
  readonly bookmarkMs?: number;
  /** How long a reader that catches up has to take a page, in ms (30,000). */
  readonly pageMs?: number;
}

export interface Feed {
  /** Resolves when the feed has ended, with the reason that the last message gave; undefined where the reader left. */
  readonly done: Promise<CongerError | undefined>;
  /** Changes that the reader has not gone by; undefined while it catches up. */
  readonly lag: number | undefined;
  /** Ends the feed; with an error, that is sent as the last message. */
  close(error?: CongerError): void;
}

const defaultBookmarkMs = 10_000;
const defaultPageMs = 30_000;

/**
 * Snapshot then stream, without a gap: reading the feed begins first, then the snapshot is read and sent, then every
 * change that is not in it. The first message is a snapshot or a bookmark; bookmarks come as long as nothing else does.
 * A reader that does not keep up with the ring, or with the log's pages, is cut off: its last message is SlowReader, and
 * it resumes from its last cursor. Where changes may have been missed (a new epoch of the log) the last message is
 * PositionGone.
 * @throws CongerError PositionGone, BadRequest (no cursor), before anything is sent
 */
export function openFeed<Item, Event>(options: FeedOptions<Item, Event>): Feed {
  return new RunningFeed(options);
}

/** The reader is gone: there is nobody to tell. */
class ReaderGone extends Error {}

/**
 * One reader's feed. Messages are sent one at a time, in order, and none after the last one. A change that comes to a
 * reader at rest is sent at once, within the broadcast's own call.
 */
class RunningFeed<Item, Event> implements Feed {
  readonly done: Promise<CongerError | undefined>;
  readonly #options: FeedOptions<Item, Event>;
  readonly #leave: () => void;
  readonly #bookmarks: NodeJS.Timeout;
  #settle: (error: CongerError | undefined) => void = () => undefined;
  #catchUp: CatchUp | undefined;
  #reader: RingReader | undefined;
  /** The first message was taken, so that a cursor stands for something. */
  #begun = false;
  /** Of the last message that was passed on: a reader that resumes from it misses nothing, whatever ends the feed. */
  #passed: FeedCursor = '';
  /** Something is under way that goes on by itself. */
  #busy = true;
  /** A message was sent since the last tick. */
  #sent = false;
  /** A bookmark is due, and has to wait for the page that is being read. */
  #due = false;
  #finished = false;
  #ended: Error | undefined;
  #interrupt: ((error: Error) => void) | undefined;

  constructor(options: FeedOptions<Item, Event>) {
    this.#options = options;
    const withSnapshot = this.#open();
    this.#leave = options.broadcast.onWake(() => this.#wake());
    this.done = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.#bookmarks = setInterval(() => this.#tick(), options.bookmarkMs ?? defaultBookmarkMs).unref();
    void this.#begin(withSnapshot);
  }

  get lag(): number | undefined {
    return this.#reader?.lag;
  }

  close(error?: CongerError): void {
    this.#end(error ?? new ReaderGone());
  }

  /** Finds the place to begin at; answers whether a snapshot comes first. */
  #open(): boolean {
    const { broadcast, since, snapshot, snapshotSince } = this.#options;
    const open = (at: FeedCursor | undefined) => broadcast.read(at, () => undefined);
    if (since !== undefined) {
      try {
        if (typeof since !== 'string') this.#catchUp = since;
        else {
          const { reader, close } = open(since);
          close();
          this.#reader = reader;
        }
        return false;
      } catch (error) {
        if (snapshot === undefined || !isCongerError(error, 'PositionGone')) throw error;
      }
    }
    const { reader, close } = open(snapshot === undefined ? undefined : snapshotSince);
    close();
    this.#reader = reader;
    return snapshot !== undefined;
  }

  async #begin(withSnapshot: boolean): Promise<void> {
    // Whoever opens the feed has it in hand before the first message.
    await Promise.resolve();
    try {
      const { snapshot } = this.#options;
      if (withSnapshot && snapshot !== undefined) await this.#takeSnapshot(snapshot);
      else await this.#send({ type: 'bookmark', cursor: this.#cursor() });
      if (this.#catchUp !== undefined) await this.#followLog(this.#catchUp);
      this.#goOn();
    } catch (error) {
      this.#finish(error);
    }
  }

  async #takeSnapshot(snapshot: () => Promise<FeedSnapshot<Item>>): Promise<void> {
    await failpoint('feed.snapshot.before');
    const { items, found } = await this.#unlessEnded(snapshot());
    await failpoint('feed.snapshot.after');
    this.#reader?.leaveOut(found.snapshot);
    await this.#send({ type: 'snapshot', items, cursor: this.#cursor() });
  }

  /** Sends what the log holds, page by page, until the ring holds the rest. */
  async #followLog(catchUp: CatchUp): Promise<void> {
    const { broadcast, select, pageMs } = this.#options;
    while (!catchUp.done) {
      const over = await this.#unlessEnded(broadcast.turns.take());
      const late = setTimeout(() => this.#end(overtaken()), pageMs ?? defaultPageMs);
      try {
        for (const change of await this.#unlessEnded(catchUp.page())) {
          if (this.#ended !== undefined) throw this.#ended;
          const event = catchUp.pass(change) ? select(change) : undefined;
          if (event !== undefined) await this.#send({ type: 'event', event, cursor: catchUp.cursor() });
        }
        if (this.#due) await this.#send({ type: 'bookmark', cursor: catchUp.cursor() });
      } finally {
        clearTimeout(late);
        over();
      }
    }
    this.#reader = broadcast.join(catchUp);
    this.#catchUp = undefined;
  }

  #wake(): void {
    if (this.#options.broadcast.stopped) this.#end(ending());
    else if (this.#reader?.overtaken === true) this.#end(overtaken());
    else if (!this.#busy) this.#drain();
  }

  #tick(): void {
    if (!this.#sent && this.#busy) this.#due = true;
    else if (!this.#sent) this.#offer({ type: 'bookmark', cursor: this.#cursor() });
    this.#sent = false;
  }

  #goOn(): void {
    this.#busy = false;
    if (this.#ended !== undefined) this.#finish(this.#ended);
    else this.#drain();
  }

  /** Sends what is there, until the reader has to be waited for. */
  #drain(): void {
    const reader = this.#reader;
    if (reader === undefined) return;
    try {
      for (let change = reader.next(); change !== undefined; change = reader.next()) {
        const event = this.#options.select(change);
        if (event === undefined) continue;
        this.#offer({ type: 'event', event, cursor: reader.cursor() });
        if (this.#busy || this.#finished) return;
      }
    } catch (error) {
      this.#finish(error);
    }
  }

  /** Sends a message to a reader at rest, who is busy with it for as long as it is not taken. */
  #offer(message: FeedMessage<Item, Event>): void {
    this.#busy = true;
    let taken: boolean | Promise<void>;
    try {
      taken = this.#pass(message);
    } catch (error) {
      this.#finish(error);
      return;
    }
    if (taken === true) this.#busy = false;
    else if (taken === false) this.#finish(new ReaderGone());
    else
      taken.then(
        () => this.#goOn(),
        (error: unknown) => this.#finish(error),
      );
  }

  async #send(message: FeedMessage<Item, Event>): Promise<void> {
    const taken = this.#pass(message);
    if (taken === false) throw new ReaderGone();
    if (taken !== true) await taken;
  }

  /** Whether the reader took the message, or else when; a rejection says that it did not. */
  #pass(message: FeedMessage<Item, Event>): boolean | Promise<void> {
    this.#sent = true;
    this.#due = false;
    const held = failpoint('feed.send.before');
    if (held !== undefined) return this.#passSlowly(held.then(() => this.#hand(message)));
    const answer = this.#hand(message);
    if (typeof answer !== 'boolean') return this.#passSlowly(answer);
    if (!answer) return false;
    this.#begun = true;
    return true;
  }

  #hand(message: FeedMessage<Item, Event>): boolean | Promise<boolean> {
    const answer = this.#options.send(message);
    this.#passed = message.cursor ?? '';
    return answer;
  }

  async #passSlowly(answer: Promise<boolean>): Promise<void> {
    if (!(await this.#unlessEnded(answer.catch(() => false)))) throw new ReaderGone();
    this.#begun = true;
    await failpoint('feed.send.after');
  }

  /** Awaits `work`, unless the feed ends first. */
  #unlessEnded<T>(work: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#ended !== undefined) reject(this.#ended);
      this.#interrupt = reject;
      work.then(resolve, reject);
    });
  }

  #cursor(): FeedCursor {
    return this.#catchUp?.cursor() ?? this.#reader?.cursor() ?? '';
  }

  #end(error: Error): void {
    this.#ended ??= error;
    if (this.#busy) this.#interrupt?.(this.#ended);
    else this.#finish(this.#ended);
  }

  #finish(cause: unknown): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#busy = true;
    this.#ended ??= new ReaderGone();
    clearInterval(this.#bookmarks);
    this.#leave();
    if (cause instanceof ReaderGone) {
      this.#settle(undefined);
      return;
    }
    const error = isCongerError(cause)
      ? cause
      : new CongerError('InternalError', 'the feed failed; resume from the last cursor', { cause });
    const answer = this.#options.send({
      type: 'end',
      error,
      cursor: this.#begun ? this.#passed : undefined,
    });
    // A reader that takes nothing more cannot be told.
    if (typeof answer !== 'boolean') answer.catch(() => false);
    this.#settle(error);
  }
}
