import { once } from 'node:events';
import { Socket } from 'node:net';
import pgListen from 'pg-listen';
import { messageOf } from '../../../runtime/errors.ts';
import type { Logger } from '../../../runtime/log.ts';
import type { PrimaryFinder } from '../../../runtime/postgres/primary.ts';
import { Backoff } from '../../backoff.ts';
import { CONNECT_MS, KEEPALIVE_MS } from '../../postgres.ts';

/** The bell's payload; undefined: rings may have been missed, so look at everything. */
export type OnRing = (payload: string | undefined) => void;

type Subscriber = ReturnType<typeof pgListen.default>;

/** How long to wait for a primary before saying that there is none, and waiting on. */
const PRIMARY_MS = 1_000;
/** How long to wait between attempts to reconnect. */
const RETRY_MS = 200;
/** How often a question is asked over the connection, */
const PING_MS = 5_000;
/** and when there is another one, for want of an answer: before a third question would wait. */
const ANSWER_MS = 9_000;
/**
 * How long PostgreSQL waits for a process that takes nothing, as one that is stopped, before it ends the connection: such
 * a one holds up PostgreSQL's queue of notifications, and where that is full every commit fails that rings a bell.
 */
const TAKES_NOTHING_MS = 60_000;

/** How long PostgreSQL may take to say goodbye. */
const GOODBYE_MS = 1_000;

/** A connection that is yet to be made, and made again where it breaks; `close` waits for no one who is silent. */
function subscribe(url: string): Subscriber {
  const sockets = new Set<Socket>();
  const stream = () => {
    const socket = new Socket();
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    return socket;
  };
  const subscriber = pgListen.default(
    {
      connectionString: url,
      application_name: 'conger log doorbell',
      keepAliveInitialDelayMillis: KEEPALIVE_MS,
      connectionTimeoutMillis: CONNECT_MS,
      query_timeout: ANSWER_MS,
      options: `-c tcp_user_timeout=${TAKES_NOTHING_MS}`,
      stream,
    },
    { paranoidChecking: PING_MS, retryInterval: RETRY_MS, parse: (text) => text },
  );
  const close = async () => {
    const impatience = setTimeout(() => {
      for (const socket of sockets) socket.destroy();
    }, GOODBYE_MS);
    await subscriber.close().finally(() => clearTimeout(impatience));
  };
  return { ...subscriber, close };
}

/**
 * LISTEN, over connections that may break. A bell only says that it is time to look: whenever the connection is made
 * anew, every listener is told to look at everything.
 */
export class Doorbell {
  readonly #finder: PrimaryFinder;
  readonly #log: Logger;
  readonly #channels: readonly string[];
  readonly #listeners = new Map<string, Set<OnRing>>();
  readonly #closed = new AbortController();
  readonly #over = once(this.#closed.signal, 'abort');
  readonly #backoff = new Backoff(100, 2_000);
  #subscriber: Subscriber | undefined;
  #opening: Promise<void> | undefined;

  constructor(finder: PrimaryFinder, channels: readonly string[], log: Logger) {
    this.#finder = finder;
    this.#channels = channels;
    this.#log = log;
  }

  /** Resolves once the bell is heard for the first time of possibly many; tries until it is, or until `close`. */
  open(): Promise<void> {
    this.#opening ??= this.#open();
    return this.#opening;
  }

  /** Calls `onRing` from now on; answers how to end that. */
  on(channel: string, onRing: OnRing): () => void {
    const listeners = this.#listeners.get(channel) ?? new Set();
    this.#listeners.set(channel, listeners);
    listeners.add(onRing);
    return () => listeners.delete(onRing);
  }

  async close(): Promise<void> {
    this.#closed.abort();
    await this.#subscriber?.close().catch(() => undefined);
    await this.#opening;
  }

  async #open(): Promise<void> {
    const { signal } = this.#closed;
    while (!signal.aborted) {
      const primary = await this.#finder.primary(PRIMARY_MS).catch((error: unknown) => {
        this.#log.warn({ err: error }, `cannot listen to PostgreSQL: ${messageOf(error)}`);
      });
      if (primary === undefined) continue;
      if (signal.aborted) return;
      const subscriber = subscribe(primary.url);
      this.#subscriber = subscriber;
      const silence = this.#attach(subscriber, primary.url);
      try {
        // pg says nothing more of a connection that was closed, and broke, while it was being made.
        await Promise.race([subscriber.connect(), this.#over]);
        for (const channel of this.#channels) await subscriber.listenTo(channel);
        this.#backoff.reset();
        this.#ringAll();
        break;
      } catch (error) {
        silence();
        this.#subscriber = undefined;
        this.#log.warn({ err: error }, `cannot listen to PostgreSQL: ${messageOf(error)}`);
        await subscriber.close().catch(() => undefined);
        await this.#backoff.pause(signal);
      }
    }
    if (signal.aborted) await this.#subscriber?.close().catch(() => undefined);
  }

  /** Hears the subscriber, and replaces it when it is to be. Answers how to think no more of the primary that it has. */
  #attach(subscriber: Subscriber, url: string): () => void {
    const { events } = subscriber;
    events.on('notification', ({ channel, payload }) => this.#ring(channel, String(payload ?? '')));
    const close = () => void subscriber.close().catch(() => undefined);
    const isOver = () => this.#subscriber !== subscriber || this.#closed.signal.aborted;
    // Also said after pg-listen has reconnected and listens again; it does not notice that it was closed meanwhile.
    events.on('connected', () => {
      if (isOver()) close();
      else this.#ringAll();
    });
    const replace = (error: unknown) => {
      close();
      if (isOver()) return;
      silence();
      this.#log.warn({ err: error }, 'the doorbell broke; opening another');
      this.#subscriber = undefined;
      this.#opening = this.#open();
    };
    // pg-listen only ever goes back to the host that it had.
    const silence = this.#finder.onChange(() => {
      if (this.#finder.current?.url !== url) replace(new Error('PostgreSQL has another primary'));
    });
    // pg-listen has given up: PostgreSQL was away for long, or the new connection broke while it was being set up.
    events.on('error', replace);
    return silence;
  }

  #ringAll(): void {
    for (const channel of this.#channels) this.#ring(channel, undefined);
  }

  #ring(channel: string, payload: string | undefined): void {
    for (const onRing of this.#listeners.get(channel) ?? []) onRing(payload);
  }
}
