import type pg from 'pg';
import { messageOf } from '../../runtime/errors.ts';
import { failpointNow } from '../../runtime/failpoints.ts';
import type { Logger } from '../../runtime/log.ts';
import { bigintToLsn } from '../position.ts';
import { ANSWER_MS, connect, connectionOf, disconnect, ended } from '../postgres.ts';
import { decodeWalMessage, encodeStatus } from './walmessages.ts';

/** How often a paused stream tells the server that it is alive (wal_sender_timeout is 60 s by default). */
const PAUSED_STATUS_MS = 10_000;
/** How long a confirmation may wait for others, where nobody asked for one. */
const STATUS_DELAY_MS = 100;

export interface ReplicationHandler {
  /** One pgoutput message; the buffer is only valid during the call. */
  data(payload: Buffer): void;
  /** Everything that was committed before `walEnd` has been given to `data`. Confirm it, if it is dealt with. */
  keepalive(walEnd: bigint): void;
}

export interface ReplicationOptions {
  readonly postgres: string;
  readonly slot: string;
  readonly publication: string;
  /** Whether large transactions come in parts while they are in progress, or all at their commit. */
  readonly streaming: boolean;
  readonly log: Logger;
  readonly handler: ReplicationHandler;
}

/**
 * A logical replication stream. Only what `confirm` was called with is ever acknowledged, and it never goes back; the
 * server may drop WAL, and skip transactions, up to there.
 */
export class ReplicationStream {
  readonly #client: pg.Client;
  readonly #handler: ReplicationHandler;
  #confirmed = 0n;
  #sent = 0n;
  #beginning: NodeJS.Timeout | undefined;
  #delayed: NodeJS.Timeout | undefined;
  #whilePaused: NodeJS.Timeout | undefined;
  #stopped = false;
  /** Resolves once the server reads the slot for us, and so nobody can drop it; never, if it does not in time. */
  readonly begun: Promise<void>;
  /** Resolves with the reason when the stream is over, for whatever reason. */
  readonly over: Promise<string>;

  static async open(options: ReplicationOptions): Promise<ReplicationStream> {
    const client = await connect({
      postgres: options.postgres,
      name: `conger capture ${options.slot} stream`,
      log: options.log,
      replication: true,
    });
    return new ReplicationStream(client, options);
  }

  private constructor(client: pg.Client, { slot, publication, streaming, handler }: ReplicationOptions) {
    this.#client = client;
    this.#handler = handler;
    const connection = connectionOf(client);
    this.begun = new Promise((resolve) => connection.once('replicationStart', resolve));
    const late = new Promise<string>((resolve) => {
      this.#beginning = setTimeout(() => resolve('the server does not begin the stream'), ANSWER_MS);
    });
    void this.begun.then(() => clearTimeout(this.#beginning));
    const fault = new Promise<string>((resolve) => {
      connection.on('copyData', ({ chunk }: { chunk: Buffer }) => {
        if (this.#stopped) return;
        try {
          this.#receive(chunk);
        } catch (error) {
          this.#stopped = true;
          resolve(`cannot use what the server sent: ${messageOf(error)}`);
        }
      });
    });
    const start = client.query(
      `START_REPLICATION SLOT "${slot}" LOGICAL 0/0 ` +
        `(proto_version '2', publication_names '"${publication}"', messages 'true', ` +
        `streaming '${streaming ? 'on' : 'off'}')`,
    );
    this.over = Promise.race([
      fault,
      late,
      ended(client).then(() => 'the connection was lost'),
      start.then(
        () => 'the server ended the stream',
        (error) => `the stream failed: ${messageOf(error)}`,
      ),
    ]);
  }

  /** LSN up to which everything has been confirmed, in PostgreSQL's notation. */
  get confirmed(): string {
    return bigintToLsn(this.#confirmed);
  }

  /** Everything before `lsn` is durable. Sent at once, or, if `urgent` is false, within a moment. */
  confirm(lsn: bigint, urgent = true): void {
    if (lsn > this.#confirmed) this.#confirmed = lsn;
    if (this.#sent === this.#confirmed || this.#stopped) return;
    if (urgent) this.#sendStatus();
    else this.#delayed ??= setTimeout(() => this.#sendStatus(), STATUS_DELAY_MS);
  }

  /** Stops reading from the socket: the server waits, and what it has yet to send stays on its disk. */
  pause(): void {
    if (this.#whilePaused !== undefined || this.#stopped) return;
    connectionOf(this.#client).stream.pause();
    this.#whilePaused = setInterval(() => this.#sendStatus(), PAUSED_STATUS_MS);
  }

  get paused(): boolean {
    return this.#whilePaused !== undefined;
  }

  resume(): void {
    if (this.#whilePaused === undefined) return;
    clearInterval(this.#whilePaused);
    this.#whilePaused = undefined;
    connectionOf(this.#client).stream.resume();
  }

  /** Takes nothing more in; what is confirmed from here on still reaches the server, with `close`. */
  stop(): void {
    this.pause();
    this.#stopped = true;
  }

  async close(): Promise<void> {
    clearTimeout(this.#beginning);
    clearTimeout(this.#delayed);
    clearInterval(this.#whilePaused);
    this.#stopped = true;
    const { stream } = connectionOf(this.#client);
    if (stream.writable && this.#confirmed > 0n) {
      // pg cuts the connection in mid-query; this lets the server read the last status before the goodbye.
      this.#sendStatus();
      connectionOf(this.#client).end();
      stream.resume();
      const impatience = setTimeout(() => stream.destroy(), 1000);
      await new Promise<void>((resolve) =>
        stream.closed ? resolve() : stream.once('close', () => resolve()),
      );
      clearTimeout(impatience);
    }
    await disconnect(this.#client);
  }

  #receive(chunk: Buffer): void {
    failpointNow('capture.receive.before');
    const message = decodeWalMessage(chunk);
    if (message.kind === 'data') {
      this.#handler.data(message.payload);
      return;
    }
    this.#handler.keepalive(message.walEnd);
    if (message.replyRequested) this.#sendStatus();
  }

  #sendStatus(): void {
    clearTimeout(this.#delayed);
    this.#delayed = undefined;
    this.#sent = this.#confirmed;
    const { stream } = connectionOf(this.#client);
    if (stream.writable) stream.write(encodeStatus(this.#confirmed, Date.now()));
  }
}
