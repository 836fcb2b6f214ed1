import pg from 'pg';
import { destroy } from '../../runtime/postgres/host-watch.ts';
import type { PrimaryFinder } from '../../runtime/postgres/primary.ts';
import { unreachable } from './connections.ts';
import { quote } from './identifiers.ts';

export interface Listener {
  hear(payload: string): void;
  /** The connection is gone: what is sent from now on is not heard any more. Called at most once. */
  lost(error: unknown): void;
}

/** A channel that the connection listens to for as long as it is there. */
export interface OwnChannel {
  readonly name: string;
  hear(payload: string): void;
}

interface Channel {
  readonly listeners: Set<Listener>;
  readonly ready: Promise<unknown>;
}

const connectMs = 10_000;
const keepAliveMs = 5_000;

/**
 * PostgreSQL's LISTEN for any number of listeners, over one connection, which is there while anybody listens. From
 * when `listen` has resolved a listener hears every notification of its channel, in the order of their commits, until
 * it is silenced or is told that the connection was lost. The connection is never replaced under a listener: what was
 * sent in between would be missing, and nobody would know. (pg-listen, made for reconnecting quietly, does that.)
 */
export class Notifications {
  readonly #finder: PrimaryFinder;
  readonly #name: string;
  readonly #own: OwnChannel | undefined;
  #link: Promise<Link> | undefined;

  /** @param name of the connection, in pg_stat_activity */
  constructor(finder: PrimaryFinder, name: string, own?: OwnChannel) {
    this.#finder = finder;
    this.#name = name;
    this.#own = own;
  }

  /**
   * Listens from when it resolves; answers how to end that.
   * @param channel up to 63 bytes
   * @throws NoDatabasePeersError
   */
  async listen(channel: string, listener: Listener): Promise<() => void> {
    const opening = this.#link ?? this.#open();
    const link = await opening;
    const forget = () => {
      if (this.#link === opening) this.#link = undefined;
    };
    const silence = () => {
      link.remove(channel, listener);
      if (!link.idle) return;
      forget();
      link.close();
    };
    try {
      await link.add(channel, listener);
    } catch (error) {
      silence();
      throw unreachable(error);
    }
    return silence;
  }

  #open(): Promise<Link> {
    const opening = this.#connect(() => {
      if (this.#link === opening) this.#link = undefined;
    });
    this.#link = opening;
    return opening;
  }

  async #connect(onGone: () => void): Promise<Link> {
    try {
      const { url } = await this.#finder.primary(connectMs);
      const client = new pg.Client({
        connectionString: url,
        application_name: this.#name,
        connectionTimeoutMillis: connectMs,
        keepAlive: true,
        keepAliveInitialDelayMillis: keepAliveMs,
        // PostgreSQL keeps every notification until all who listen have it: not for a server that is stopped.
        options: '-c tcp_user_timeout=60s',
      });
      const link = new Link(client, this.#own, onGone);
      // At a switch the old primary may be frozen, and its connection then breaks only much later.
      const silence = this.#finder.onChange(() => {
        if (this.#finder.current?.url !== url) link.fail(new Error('PostgreSQL has another primary'));
      });
      client.once('end', silence);
      await client.connect();
      if (this.#own !== undefined) await client.query(`LISTEN ${quote(this.#own.name)}`);
      return link;
    } catch (error) {
      onGone();
      throw unreachable(error);
    }
  }
}

/** One connection and who listens on it. Once it has failed it stays so. */
class Link {
  readonly #client: pg.Client;
  readonly #onGone: () => void;
  readonly #channels = new Map<string, Channel>();
  #failure: { readonly error: unknown } | undefined;

  constructor(client: pg.Client, own: OwnChannel | undefined, onGone: () => void) {
    this.#client = client;
    this.#onGone = onGone;
    client.on('error', (error) => this.fail(error));
    client.on('end', () => this.fail(new Error('the connection has ended')));
    client.on('notification', ({ channel, payload = '' }) => {
      if (channel === own?.name) own.hear(payload);
      for (const listener of [...(this.#channels.get(channel)?.listeners ?? [])]) listener.hear(payload);
    });
  }

  get idle(): boolean {
    return this.#channels.size === 0;
  }

  async add(name: string, listener: Listener): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure.error;
    let channel = this.#channels.get(name);
    if (channel === undefined) {
      channel = { listeners: new Set(), ready: this.#client.query(`LISTEN ${quote(name)}`) };
      this.#channels.set(name, channel);
    }
    channel.listeners.add(listener);
    await channel.ready;
  }

  remove(name: string, listener: Listener): void {
    const channel = this.#channels.get(name);
    if (channel === undefined || !channel.listeners.delete(listener) || channel.listeners.size > 0) return;
    this.#channels.delete(name);
    if (this.#failure === undefined) this.#client.query(`UNLISTEN ${quote(name)}`).catch(() => undefined);
  }

  fail(error: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = { error };
    this.#onGone();
    const listeners = [...this.#channels.values()].flatMap((channel) => [...channel.listeners]);
    this.#channels.clear();
    for (const listener of listeners) listener.lost(unreachable(error));
    // Without a goodbye, which a frozen host would not answer.
    destroy(this.#client);
  }

  close(): void {
    this.#failure ??= { error: new Error('the connection was closed') };
    this.#client.end().catch(() => undefined);
  }
}
