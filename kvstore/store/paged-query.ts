import type { EventEmitter } from 'node:events';
import pg from 'pg';

/** What is used of pg's Connection and Query, which its types leave out. */
interface WireConnection {
  execute(options: { portal: string; rows: number }): void;
  flush(): void;
  sync(): void;
}

interface WireQuery extends EventEmitter, pg.Submittable {
  handleCommandComplete(message: unknown, connection: WireConnection): void;
  handleError(error: Error, connection: WireConnection): void;
}

const WireQuery = pg.Query as unknown as new (config: object) => WireQuery;

/** Pages of this many rows are asked for; with a row of 1 KB each that is what one page holds in memory. */
const rowsPerPage = 200;

/**
 * A query whose rows come page by page, each asked for once the one before has been taken. PostgreSQL keeps the rest,
 * so memory stays flat however many there are; a result of one page takes one round trip. Ends early, and well, where
 * `take` answers false.
 */
class PagedQuery extends WireQuery {
  readonly #take: (rows: unknown[][]) => Promise<boolean>;
  #page: unknown[][] = [];
  /** Sync ends the exchange, however it went, and must be sent exactly once. */
  #synced = false;
  #failure: { readonly error: unknown } | undefined;

  constructor(text: string, values: readonly unknown[], take: (rows: unknown[][]) => Promise<boolean>) {
    super({ text, values: [...values], rows: rowsPerPage, rowMode: 'array' });
    this.#take = take;
    this.on('row', (row: unknown[]) => this.#page.push(row));
  }

  /** Called by the connection at the end of a page that is not the last. */
  handlePortalSuspended(connection: WireConnection): void {
    this.#deliver().then((more) => {
      if (more) {
        connection.execute({ portal: '', rows: rowsPerPage });
        connection.flush();
      } else {
        this.#sync(connection);
      }
    });
  }

  override handleCommandComplete(message: unknown, connection: WireConnection): void {
    this.#synced = true;
    super.handleCommandComplete(message, connection);
  }

  override handleError(error: Error, connection: WireConnection): void {
    if (error instanceof pg.DatabaseError) this.#sync(connection);
    super.handleError(error, connection);
  }

  #sync(connection: WireConnection): void {
    if (this.#synced) return;
    this.#synced = true;
    connection.sync();
  }

  async finished(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.on('end', () => resolve());
      this.on('error', reject);
    });
    await this.#deliver();
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  async #deliver(): Promise<boolean> {
    const page = this.#page;
    this.#page = [];
    if (this.#failure !== undefined || page.length === 0) return false;
    try {
      return await this.#take(page);
    } catch (error) {
      this.#failure = { error };
      return false;
    }
  }
}

/** Runs a query, and hands over its rows (arrays) page by page, until there are no more or `take` answers false. */
export async function queryPages(
  client: pg.PoolClient,
  text: string,
  values: readonly unknown[],
  take: (rows: unknown[][]) => Promise<boolean>,
): Promise<void> {
  const query = new PagedQuery(text, values, take);
  const finished = query.finished();
  client.query(query);
  await finished;
}
