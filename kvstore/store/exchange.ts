import { LRUCache } from 'lru-cache';
import type pg from 'pg';
import { isDataError } from './retry.ts';

/** A parameter as it is sent: text, the binary form of its type, or NULL. */
export type Value = string | Buffer | null;

/** A row as it comes: the text of each column, whatever its type. */
export type TextRow = (string | null)[];

export interface Statement {
  readonly text: string;
  readonly values: readonly Value[];
}

/** What is used of pg's Connection, which its types leave out. */
interface WireConnection {
  readonly stream: {
    cork(): void;
    uncork(): void;
    pause(): void;
    resume(): void;
    destroy(): void;
  };
  parse(statement: { name: string; text: string }): void;
  bind(portal: { statement: string; values: readonly Value[] }): void;
  execute(): void;
  close(what: { type: 'S'; name: string }): void;
  sync(): void;
}

/** Statements that a connection keeps prepared; the plan of a write takes some 100 KB in PostgreSQL. */
const maxPrepared = 200;
/** Longer ones, such as filters of thousands of values, are parsed each time: none like it may come again. */
const maxTextLength = 20_000;
/**
 * PostgreSQL keeps a plan as it was made, were it for an empty table, until something analyzes the table. After this
 * time a statement is prepared anew.
 */
const planAgeMs = 10_000;

/** The statements that one connection has prepared, by their text. */
class PreparedStatements {
  #count = 0;
  readonly #forgotten: string[] = [];
  readonly #names = new LRUCache<string, string>({
    max: maxPrepared,
    ttl: planAgeMs,
    dispose: (name) => this.#forgotten.push(name),
  });

  nameOf(text: string): string | undefined {
    return this.#names.get(text);
  }

  add(text: string): string {
    const name = `s${this.#count++}`;
    this.#names.set(text, name);
    return name;
  }

  /** For a statement that may not be prepared after all. */
  forget(text: string): void {
    this.#names.delete(text);
  }

  /** Names of statements that are no longer wanted, each told once. */
  takeForgotten(): string[] {
    return this.#forgotten.splice(0);
  }
}

const prepared = new WeakMap<WireConnection, PreparedStatements>();

function preparedOn(connection: WireConnection): PreparedStatements {
  let statements = prepared.get(connection);
  if (statements === undefined) {
    statements = new PreparedStatements();
    prepared.set(connection, statements);
  }
  return statements;
}

/**
 * Statements that go to PostgreSQL together, in one round trip; its answer is the rows of the last. Outside of a
 * transaction they are one, unless one of them begins another. Each is prepared once a connection, and is bound with
 * values whose types its text says. Rows are not described: whoever asks knows their columns.
 *
 * It has the methods that a pg Client calls on the query that it is at.
 */
class Exchange implements pg.Submittable {
  readonly #statements: readonly Statement[];
  readonly #onRow: (row: TextRow) => void;
  readonly #onEnd: (error?: unknown) => void;
  #connection: WireConnection | undefined;
  #parsed: readonly string[] = [];
  #complete = 0;

  constructor(
    statements: readonly Statement[],
    onRow: (row: TextRow) => void,
    onEnd: (error?: unknown) => void,
  ) {
    this.#statements = statements;
    this.#onRow = onRow;
    this.#onEnd = onEnd;
  }

  submit(given: unknown): void {
    const connection = given as WireConnection;
    this.#connection = connection;
    const names = preparedOn(connection);
    const parsed: string[] = [];
    connection.stream.cork();
    for (const name of names.takeForgotten()) connection.close({ type: 'S', name });
    for (const { text, values } of this.#statements) {
      const kept = text.length <= maxTextLength;
      let statement = kept ? names.nameOf(text) : undefined;
      if (statement === undefined) {
        statement = kept ? names.add(text) : '';
        connection.parse({ name: statement, text });
        parsed.push(text);
      }
      connection.bind({ statement, values });
      connection.execute();
    }
    connection.sync();
    connection.stream.uncork();
    this.#parsed = parsed;
  }

  /** What the socket has read already still comes. */
  pause(): void {
    this.#connection?.stream.pause();
  }

  resume(): void {
    this.#connection?.stream.resume();
  }

  /** Breaks the connection; the exchange ends with an error. */
  destroy(): void {
    this.#connection?.stream.destroy();
  }

  handleRowDescription(): void {}

  handleDataRow({ fields }: { fields: TextRow }): void {
    if (this.#complete === this.#statements.length - 1) this.#onRow(fields);
  }

  handleCommandComplete(): void {
    this.#complete++;
  }

  handleError(error: unknown): void {
    if (this.#connection !== undefined) {
      // After an error PostgreSQL skips the rest, and so may not have prepared what was to be.
      const names = preparedOn(this.#connection);
      const doubtful = isDataError(error) ? this.#parsed : this.#statements.map((s) => s.text);
      for (const text of doubtful) names.forget(text);
    }
    this.#onEnd(error);
  }

  handleReadyForQuery(): void {
    this.#onEnd();
  }
}

/** Sends statements in one round trip, and answers the rows of the last. */
export function exchange(client: pg.PoolClient, ...statements: readonly Statement[]): Promise<TextRow[]> {
  return new Promise((resolve, reject) => {
    const rows: TextRow[] = [];
    const onEnd = (error?: unknown) => (error === undefined ? resolve(rows) : reject(error));
    client.query(new Exchange(statements, (row) => rows.push(row), onEnd));
  });
}

/** Limits each statement after it in the same exchange, and no other. */
export function timeLimit(ms: number): Statement {
  return { text: `SELECT set_config('statement_timeout', $1, true)`, values: [String(ms)] };
}

/** What is handed over at a time: rows up to this number, or this many characters of them and what goes beyond. */
const rowsPerPage = 200;
const charactersPerPage = 1024 * 1024;

function lengthOf(row: TextRow): number {
  let length = 0;
  for (const text of row) length += text?.length ?? 0;
  return length;
}

/**
 * Sends statements in one round trip, and hands over the rows of the last page by page. While a page is being taken no
 * more is read from the connection, so memory stays flat however many rows there are. Where `take` answers false, or
 * rejects, it is asked no more; what is left is passed over, or, where that is much, cut off with the connection.
 */
export async function exchangePages(
  client: pg.PoolClient,
  statements: readonly Statement[],
  take: (rows: TextRow[]) => Promise<boolean>,
): Promise<void> {
  let page: TextRow[] = [];
  let characters = 0;
  let delivery: Promise<void> | undefined;
  let stopped: { readonly error?: unknown } | undefined;
  let passedOver = 0;

  const deliver = async () => {
    query.pause();
    while (page.length > 0 && stopped === undefined) {
      const rows = page;
      page = [];
      characters = 0;
      try {
        if (!(await take(rows))) stopped = {};
      } catch (error) {
        stopped = { error };
      }
    }
    delivery = undefined;
    query.resume();
  };
  const onRow = (row: TextRow) => {
    if (stopped !== undefined) {
      if (++passedOver === rowsPerPage) query.destroy();
      return;
    }
    page.push(row);
    characters += lengthOf(row);
    if (page.length >= rowsPerPage || characters >= charactersPerPage) delivery ??= deliver();
  };
  let query: Exchange;
  const end = await new Promise<{ readonly error: unknown }>((resolve) => {
    query = new Exchange(statements, onRow, (error) => resolve({ error }));
    client.query(query);
  });
  await delivery;
  if (end.error === undefined) await deliver();
  if (stopped !== undefined && 'error' in stopped) throw stopped.error;
  if (stopped === undefined && end.error !== undefined) throw end.error;
}

const textOid = 25;

/** A text[] in PostgreSQL's binary form, which takes neither quoting here nor parsing there. */
export function textArray(elements: readonly (string | null)[]): Buffer {
  // A UTF-16 unit takes three bytes of UTF-8 at most.
  const most = elements.reduce((sum, e) => sum + 4 + 3 * (e?.length ?? 0), 20);
  const buffer = Buffer.allocUnsafe(most);
  let at = 0;
  for (const head of [1, 1, textOid, elements.length, 1]) at = buffer.writeInt32BE(head, at);
  for (const element of elements) {
    const bytes = element === null ? -1 : buffer.write(element, at + 4);
    buffer.writeInt32BE(bytes, at);
    at += 4 + Math.max(bytes, 0);
  }
  return buffer.subarray(0, at);
}
