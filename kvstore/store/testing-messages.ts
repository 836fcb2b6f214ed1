import pg from 'pg';

/** A change as it was emitted into the WAL. */
export interface Emitted {
  /** Counts transactions in the order of their commits. */
  readonly transaction: number;
  readonly prefix: string;
  readonly body: {
    readonly v: number;
    readonly bucket: string;
    readonly key: string;
    readonly op: 'put' | 'delete';
    readonly etag: string | null;
    readonly request_id: string | null;
    readonly traceparent: string | null;
    readonly value: Record<string, unknown> | null;
    readonly previous: Record<string, unknown> | null;
  };
}

/** Reads the changes that a store emits, in commit order, through a slot of its own. For tests. */
export class Messages {
  readonly #client: pg.Client;
  #transaction = 0;

  private constructor(client: pg.Client) {
    this.#client = client;
  }

  static async open(url: string): Promise<Messages> {
    const client = new pg.Client(url);
    await client.connect();
    await client.query('DROP PUBLICATION IF EXISTS test_messages');
    await client.query('CREATE PUBLICATION test_messages');
    await client.query(`SELECT pg_create_logical_replication_slot('test_messages', 'pgoutput')`);
    return new Messages(client);
  }

  /** What was committed since the last call. */
  async take(): Promise<Emitted[]> {
    const { rows } = await this.#client.query<{ data: Buffer }>(
      `SELECT data FROM pg_logical_slot_get_binary_changes('test_messages', NULL, NULL,
        'proto_version', '1', 'publication_names', 'test_messages', 'messages', 'true')`,
    );
    return rows.flatMap(({ data }) => this.#decode(data));
  }

  #decode(data: Buffer): Emitted[] {
    const kind = String.fromCharCode(data[0] ?? 0);
    if (kind === 'B') this.#transaction++;
    if (kind !== 'M') return [];
    // 'M', flags (1), LSN (8), prefix up to NUL, length (4), content
    const end = data.indexOf(0, 10);
    const prefix = data.toString('utf8', 10, end);
    const body = JSON.parse(data.toString('utf8', end + 5)) as Emitted['body'];
    return [{ transaction: this.#transaction, prefix, body }];
  }

  async close(): Promise<void> {
    await this.#client.query(`SELECT pg_drop_replication_slot('test_messages')`);
    await this.#client.end();
  }
}
