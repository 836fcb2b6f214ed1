import { CongerError, isCongerError } from '../../runtime/errors.ts';
import { failpoint } from '../../runtime/failpoints.ts';
import { ending } from '../broadcast.ts';
import type { CatchUp } from './catch-up.ts';
import type { Cohort, Member } from './cohort.ts';
import { decodeCursor, encodeCursor, type FeedCursor } from './cursor.ts';
import type { FeedMessage, FeedOptions, FeedSnapshot } from './feed-options.ts';
import { followLog } from './follow-log.ts';
import { overtaken, type RingReader } from './reader.ts';

export type { FeedMessage, FeedOptions, FeedSnapshot } from './feed-options.ts';

export interface Feed {
  /** Resolves when the feed has ended, with the reason that the last message gave; undefined where the reader left. */
  readonly done: Promise<CongerError | undefined>;
  /** Changes that the reader has not gone by; undefined while it reads a snapshot or the log. */
  readonly lag: number | undefined;
  /** Ends the feed; with an error, that is sent as the last message. */
  close(error?: CongerError): void;
}

const defaultBookmarkMs = 10_000;
const defaultStuckMs = 30_000;
/** Items of a snapshot that are sent at a time. */
const pageOfSnapshot = 256;

/**
 * Snapshot then stream, without a gap: reading the feed begins first, then the snapshot is read and sent, then every
 * change that is not in it, however long that took. The first message is a snapshot or a bookmark; bookmarks come as long
 * as nothing else does. A reader that does not keep up with the ring, or with the log's pages, is cut off: its last
 * message is SlowReader, and it resumes from its last cursor. Where changes may have been missed (a new epoch of the log)
 * the last message is PositionGone.
 * @throws CongerError PositionGone, BadRequest (no cursor), before anything is sent
 */
export function openFeed<Item, Event>(options: FeedOptions<Item, Event>): Feed {
  return new RunningFeed(options);
}

type Take<Item> = () => Promise<FeedSnapshot<Item>>;

/** The reader is gone: there is nobody to tell. */
class ReaderGone extends Error {}

/**
 * One reader's feed. Messages are sent one at a time, in order, and none after the last one. A change that comes to a
 * reader at rest is sent at once, within the broadcast's own call.
 */
class RunningFeed<Item, Event> implements Feed, Member<Event> {
  readonly done: Promise<CongerError | undefined>;
  readonly #options: FeedOptions<Item, Event>;
  #leave: (() => void) | undefined;
  readonly #bookmarks: NodeJS.Timeout;
  #settle: (error: CongerError | undefined) => void = () => undefined;
  #catchUp: CatchUp | undefined;
  /** Its own way through the ring, unless it goes with a cohort. */
  #reader: RingReader | undefined;
  #cohort: Cohort<Event> | undefined;
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
    const beforeSnapshot = this.#open();
    options.broadcast.countReaders(1);
    this.#listen();
    this.done = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.#bookmarks = setInterval(() => this.#tick(), options.bookmarkMs ?? defaultBookmarkMs).unref();
    void this.#begin(beforeSnapshot);
  }

  get lag(): number | undefined {
    return this.#cohort === undefined ? this.#reader?.lag : 0;
  }

  close(error?: CongerError): void {
    this.#end(error ?? new ReaderGone());
  }

  tell(message: FeedMessage<Item, Event>): void {
    this.#offer(message);
  }

  fail(error: unknown): void {
    this.#finish(error);
  }

  #listen(): void {
    this.#leave = this.#options.broadcast.onWake(() => this.#wake());
  }

  /** Has read everything, and goes with those who have. */
  #join(reader: RingReader): void {
    const { cohorts, broadcast } = this.#options;
    this.#cohort = cohorts?.join(broadcast, this, reader);
    if (this.#cohort === undefined) return;
    this.#reader = undefined;
    this.#leave?.();
    this.#leave = undefined;
  }

  /** Goes its own way from here on. */
  #part(): void {
    if (this.#cohort === undefined) return;
    this.#reader = this.#cohort.part(this);
    this.#cohort = undefined;
    this.#listen();
  }

  /** Finds the place to begin at; answers the reader that stands there where a snapshot comes first. */
  #open(): RingReader | undefined {
    const { since, snapshot } = this.#options;
    if (since !== undefined) {
      try {
        if (typeof since !== 'string') this.#catchUp = since;
        else this.#reader = this.#readerAt(since);
        return undefined;
      } catch (error) {
        if (snapshot === undefined || !isCongerError(error, 'PositionGone')) throw error;
      }
    }
    const reader = this.#readerAt(undefined);
    if (snapshot !== undefined) return reader;
    this.#reader = reader;
    return undefined;
  }

  #readerAt(since: FeedCursor | undefined): RingReader {
    const { reader, close } = this.#options.broadcast.read(since, () => undefined);
    close();
    return reader;
  }

  async #begin(beforeSnapshot: RingReader | undefined): Promise<void> {
    // Whoever opens the feed has it in hand before the first message.
    await Promise.resolve();
    try {
      const { snapshot } = this.#options;
      if (snapshot !== undefined && beforeSnapshot !== undefined)
        await this.#takeSnapshot(snapshot, beforeSnapshot);
      else await this.#send({ type: 'bookmark', cursor: this.#cursor() });
      if (this.#catchUp !== undefined) await this.#followLog(this.#catchUp);
      this.#goOn();
    } catch (error) {
      this.#finish(error);
    }
  }

  /** Goes on behind the snapshot: in the ring, or in the log where the ring has gone on meanwhile. */
  async #takeSnapshot(snapshot: Take<Item>, opened: RingReader): Promise<void> {
    const { broadcast, snapshotOver } = this.#options;
    const { since, cursor } = await this.#sendSnapshot(snapshot, opened).finally(snapshotOver);
    if (since === undefined && !opened.overtaken) this.#reader = opened;
    else this.#catchUp = await this.#unlessEnded(broadcast.resume(cursor));
  }

  /** Answers where to go on from. */
  async #sendSnapshot(
    snapshot: Take<Item>,
    opened: RingReader,
  ): Promise<{ readonly since: FeedCursor | undefined; readonly cursor: FeedCursor }> {
    await failpoint('feed.snapshot.before');
    const { items, found, since } = await this.#unlessEnded(snapshot());
    await failpoint('feed.snapshot.after');
    opened.leaveOut(found.snapshot);
    const cursor =
      since === undefined
        ? opened.cursor()
        : encodeCursor({ ...decodeCursor(since), snapshot: found.snapshot });
    const count = items.length;
    for (let at = 0; at === 0 || at < count; at += pageOfSnapshot) {
      const end = at + pageOfSnapshot;
      const page = { items: items.slice(at, end), count, last: end >= count, cursor };
      await this.#unlessStuck(this.#send({ type: 'snapshot', ...page }));
    }
    return { since, cursor };
  }

  async #followLog(catchUp: CatchUp): Promise<void> {
    const { broadcast, select } = this.#options;
    await followLog({
      catchUp,
      turns: broadcast.turns,
      tell: (change) => {
        if (this.#ended !== undefined) throw this.#ended;
        const event = select(change);
        return event && this.#sendNow({ type: 'event', event, cursor: catchUp.cursor() });
      },
      pageOver: () => (this.#due ? this.#sendNow({ type: 'bookmark', cursor: catchUp.cursor() }) : undefined),
      until: (work) => this.#unlessEnded(work),
      unlessStuck: (taken) => this.#unlessStuck(taken),
    });
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
      this.#join(reader);
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
    if (taken === true) {
      this.#busy = false;
      return;
    }
    this.#part();
    if (taken === false) this.#finish(new ReaderGone());
    else
      taken.then(
        () => this.#goOn(),
        (error: unknown) => this.#finish(error),
      );
  }

  async #send(message: FeedMessage<Item, Event>): Promise<void> {
    await this.#sendNow(message);
  }

  /** Sends a message; answers what has to be waited for before the next one. */
  #sendNow(message: FeedMessage<Item, Event>): Promise<void> | undefined {
    const taken = this.#pass(message);
    if (taken === false) throw new ReaderGone();
    return taken === true ? undefined : taken;
  }

  /** Awaits a reader that may take nothing at all. */
  async #unlessStuck(taken: Promise<void>): Promise<void> {
    const late = setTimeout(() => this.#end(overtaken()), this.#options.stuckMs ?? defaultStuckMs);
    try {
      await taken;
    } finally {
      clearTimeout(late);
    }
  }

  /** Whether the reader took the message, or else when; a rejection says that it did not. */
  #pass(message: FeedMessage<Item, Event>): boolean | Promise<void> {
    this.#sent = true;
    this.#due = false;
    const held = failpoint('feed.send.before');
    if (held !== undefined)
      return this.#passSlowly(
        message,
        held.then(() => this.#hand(message)),
      );
    const answer = this.#hand(message);
    if (typeof answer !== 'boolean') return this.#passSlowly(message, answer);
    if (!answer) return false;
    this.#begun ||= standsForSomething(message);
    return true;
  }

  #hand(message: FeedMessage<Item, Event>): boolean | Promise<boolean> {
    const answer = this.#options.send(message);
    this.#passed = message.cursor ?? '';
    return answer;
  }

  async #passSlowly(message: FeedMessage<Item, Event>, answer: Promise<boolean>): Promise<void> {
    if (!(await this.#unlessEnded(answer.catch(() => false)))) throw new ReaderGone();
    this.#begun ||= standsForSomething(message);
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
    return this.#catchUp?.cursor() ?? this.#cohort?.cursor() ?? this.#reader?.cursor() ?? '';
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
    this.#part();
    this.#leave?.();
    this.#options.broadcast.countReaders(-1);
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

/** Whether who has taken the message can resume from its cursor: not in the middle of a snapshot. */
function standsForSomething(message: FeedMessage<unknown, unknown>): boolean {
  return message.type !== 'snapshot' || message.last;
}
