import { parseChange } from '../change.ts';
import type { Change, Cursor, LogReader, LogRecord, Position } from '../types.ts';

/** A page of a partition, of which each reader takes what it has not passed. */
export interface Page {
  readonly records: readonly LogRecord[];
  /** Where the next page begins. */
  readonly next: Cursor;
  /** The change in a record of this page. @throws UnreadableChangeError */
  change(record: LogRecord): Change;
}

/** How many pages are kept, of about 1 MB each. */
const keptPages = 8;
const keptPlaces = 1_000;
/** For so long after the last one was asked for, in ms. */
const keepMs = 5_000;

/**
 * What the log holds, for readers that catch up: the readers of an instance that died stand at a few places, so what was
 * read for one of them is kept for the next ones. A page that was read stays true; that there is none is asked anew by
 * everybody.
 */
export class Pages {
  readonly #reader: Pick<LogReader, 'locate' | 'readFrom'>;
  readonly #pages = new Map<string, Promise<Page | undefined>>();
  readonly #places = new Map<string, Promise<Cursor>>();
  #forget: NodeJS.Timeout | undefined;

  constructor(reader: Pick<LogReader, 'locate' | 'readFrom'>) {
    this.#reader = reader;
  }

  /** As the log's reader does it. */
  locate(partition: number, position: Position): Promise<Cursor> {
    return this.#share(this.#places, keptPlaces, `${partition} ${position}`, () =>
      this.#reader.locate(partition, position),
    );
  }

  /** The page behind a cursor; undefined where there is nothing more. */
  async read(partition: number, cursor: Cursor): Promise<Page | undefined> {
    const read = async () => {
      const batch = await this.#reader.readFrom(partition, cursor);
      return batch && pageOf(batch.records, batch.cursor);
    };
    const key = `${partition} ${cursor.position} ${cursor.offset}`;
    const known = this.#pages.get(key);
    if (known === undefined) return this.#share(this.#pages, keptPages, key, read);
    // It may have been asked for before what this reader looks for was there.
    return (await known) ?? read();
  }

  /** Forgets everything: the log is not the one that was read. */
  clear(): void {
    clearTimeout(this.#forget);
    this.#pages.clear();
    this.#places.clear();
  }

  #share<T>(kept: Map<string, Promise<T>>, most: number, key: string, read: () => Promise<T>): Promise<T> {
    clearTimeout(this.#forget);
    this.#forget = setTimeout(() => this.clear(), keepMs).unref();
    const known = kept.get(key);
    if (known !== undefined) return known;
    const reading = read();
    kept.set(key, reading);
    const drop = () => {
      if (kept.get(key) === reading) kept.delete(key);
    };
    reading.then((found) => {
      if (found === undefined) drop();
    }, drop);
    for (const oldest of kept.keys()) {
      if (kept.size <= most) break;
      kept.delete(oldest);
    }
    return reading;
  }
}

function pageOf(records: readonly LogRecord[], next: Cursor): Page {
  const changes = new Map<LogRecord, Change>();
  return {
    records,
    next,
    change: (record) => {
      const known = changes.get(record) ?? parseChange(record);
      changes.set(record, known);
      return known;
    },
  };
}
