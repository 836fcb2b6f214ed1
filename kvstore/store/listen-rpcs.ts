import { CongerError } from '../../runtime/errors.ts';
import type { RpcCall, RpcTable } from '../rpc.ts';
import { parseArguments } from './arguments.ts';
import { committing } from './database.ts';
import { type Listener, Notifications } from './notifications.ts';
import { queryError } from './sql-errors.ts';
import type { Store } from './store.ts';
import { listenerCount } from './store-metrics.ts';

/** Notifications that may wait for a client to take them; PostgreSQL's are under 8 kB each. */
const maxWaiting = 4096;
const perMessage = 100;
const maxChannelBytes = 63;
const maxPayloadBytes = 7999;

/** By this channel servers tell each other which listener is to end: a client's calls may reach any of them. */
const unlistenChannel = 'conger.unlisten';

function checkText(what: string, text: string, maxBytes: number): void {
  if (text.includes('\0')) throw new CongerError('InvocationError', `${what} may not contain NUL`);
  const bytes = Buffer.byteLength(text);
  if (bytes > maxBytes) {
    throw new CongerError('InvocationError', `${what} may be ${maxBytes} bytes at most, not ${bytes}`);
  }
}

/**
 * Notifies whoever listens to `channel`.
 * @throws InvocationError where PostgreSQL would not take it, NoDatabasePeersError, UnknownOutcomeError
 */
export async function notify(store: Store, channel: string, payload: string): Promise<void> {
  checkText('a channel', channel, maxChannelBytes);
  checkText('a payload', payload, maxPayloadBytes);
  try {
    await committing(store.database.readers, (client) =>
      client.query('SELECT pg_notify($1, $2)', [channel, payload]),
    );
  } catch (error) {
    throw queryError(error);
  }
}

/** One `listen` call. What it has heard before it ends, however it ends, it sends before that. */
class Listening implements Listener {
  readonly #call: RpcCall;
  readonly #channel: string;
  readonly #ended: Promise<void>;
  #over = false;
  readonly #heard: string[] = [];
  #sending: Promise<void> | undefined;
  #resolve: () => void = () => {};
  #reject: (error: unknown) => void = () => {};

  constructor(call: RpcCall, channel: string) {
    this.#call = call;
    this.#channel = channel;
    this.#ended = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#ended.catch(() => undefined);
  }

  hear(payload: string): void {
    if (this.#over) return;
    if (this.#heard.length >= maxWaiting) {
      this.lost(
        new CongerError('OverloadedError', 'the listener does not take its notifications', {
          context: { waiting: this.#heard.length },
        }),
      );
      return;
    }
    this.#heard.push(payload);
    this.#sending ??= this.#send().finally(() => {
      this.#sending = undefined;
    });
  }

  lost(error: unknown): void {
    this.#over = true;
    this.#reject(error);
  }

  end(): void {
    this.#over = true;
    this.#resolve();
  }

  /**
   * Resolves when it has ended by `end`, or the client is gone.
   * @throws what it was lost for
   */
  async ended(): Promise<void> {
    const { signal } = this.#call;
    const onAbort = () => this.end();
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) this.end();
    try {
      await this.#ended;
    } finally {
      signal.removeEventListener('abort', onAbort);
      await this.#sending;
    }
  }

  async #send(): Promise<void> {
    try {
      while (this.#heard.length > 0) {
        const channel = this.#channel;
        const payloads = this.#heard.splice(0, perMessage);
        await this.#call.send(payloads.map((payload) => ({ channel, payload })));
      }
    } catch (error) {
      this.lost(error);
    }
  }
}

/** listen, unlisten, notify. `close` ends every listener with an error, and lets no more listen. */
export function listenRpcs(store: Store): { readonly rpcs: RpcTable; close(): void } {
  const notifications = new Notifications(store.database.finder, 'conger-kvstore listen', {
    name: unlistenChannel,
    hear: endById,
  });
  const all = new Set<Listening>();
  const byId = new Map<string, Set<Listening>>();
  let closed = false;

  function endById(id: string): boolean {
    const found = byId.get(id);
    for (const listening of found ?? []) listening.end();
    return found !== undefined;
  }

  function closing(): CongerError {
    return new CongerError('OverloadedError', 'the server is shutting down');
  }

  function register(id: string | undefined, listening: Listening): () => void {
    all.add(listening);
    listenerCount.inc();
    const same = id === undefined ? undefined : (byId.get(id) ?? new Set());
    if (id !== undefined && same !== undefined) byId.set(id, same.add(listening));
    return () => {
      all.delete(listening);
      listenerCount.dec();
      same?.delete(listening);
      if (id !== undefined && same?.size === 0) byId.delete(id);
    };
  }

  const rpcs: RpcTable = {
    async listen(call) {
      const [channel, options] = parseArguments('listen', call.args, [
        ['channel', 'string'],
        ['options', 'options'],
      ]);
      checkText('a channel', channel, maxChannelBytes);
      if (closed) throw closing();
      const listening = new Listening(call, channel);
      const unregister = register(options.req_id, listening);
      try {
        const silence = await notifications.listen(channel, listening);
        await listening.ended().finally(silence);
      } finally {
        unregister();
      }
    },

    async unlisten({ args }) {
      const [id] = parseArguments('unlisten', args, [
        ['id', 'string'],
        ['options', 'options'],
      ]);
      if (!endById(id)) await notify(store, unlistenChannel, id);
    },

    async notify({ args }) {
      const [channel, payload] = parseArguments('notify', args, [
        ['channel', 'string'],
        ['payload', 'string'],
        ['options', 'options'],
      ]);
      await notify(store, channel, payload);
    },
  };

  return {
    rpcs,
    close: () => {
      closed = true;
      for (const listening of all) listening.lost(closing());
    },
  };
}
