import { EventEmitter } from 'node:events';
import { connect, type Socket } from 'node:net';
import {
  FastDecoder,
  type FastMessage,
  FastProtocolError,
  maxMessageId,
  payloadOf,
  status,
} from './codec.ts';
import { fromWire } from './errors.ts';
import { Outbox } from './outbox.ts';

/** The connection broke before the call was answered. `sent`: whether the server may have seen the request. */
export class ConnectionBrokenError extends Error {
  readonly sent: boolean;

  constructor(sent: boolean, cause: unknown) {
    super('connection to the kvstore server broke', { cause });
    this.name = 'ConnectionBrokenError';
    this.sent = sent;
  }
}

export interface FastConnectionOptions {
  readonly host: string;
  readonly port: number;
  /** After this long without a byte while a call waits, the server is pinged; after as long again it counts as dead. */
  readonly silenceMs?: number;
}

interface Pending {
  readonly values: unknown[];
  readonly started: number;
  resolve(values: unknown[]): void;
  reject(error: Error): void;
}

/** Greatest answer that is accepted, in bytes of JSON. */
const maxAnswer = 64 * 1024 * 1024;

/**
 * The client's side of one connection. Every call that was made ends exactly once: with its values, with the server's
 * error, or with ConnectionBrokenError when the connection goes. A server that is frozen is noticed as long as a call
 * waits for it; at rest nothing is sent.
 *
 * Emits `connect`, then at most one `error`, and `close` at the end (what cueball asks of a connection).
 */
export class FastConnection extends EventEmitter {
  readonly #socket: Socket;
  readonly #decoder = new FastDecoder(maxAnswer);
  readonly #outbox: Outbox;
  readonly #pending = new Map<number, Pending>();
  readonly #silenceMs: number;
  #connected = false;
  #broken: Error | undefined;
  #lastId = 0;
  #heard = 0;
  #pinged: number | undefined;
  #watch: NodeJS.Timeout | undefined;

  constructor(options: FastConnectionOptions) {
    super();
    this.#silenceMs = options.silenceMs ?? 2_000;
    const socket = connect({ host: options.host, port: options.port, noDelay: true });
    this.#socket = socket;
    this.#outbox = new Outbox(socket);
    socket.on('connect', () => {
      this.#connected = true;
      socket.setKeepAlive(true, 10_000);
      this.emit('connect');
    });
    socket.on('data', (chunk) => this.#onData(chunk));
    socket.on('error', (error) => this.#break(error));
    socket.on('end', () => this.#break(new Error('the server closed the connection')));
    socket.on('close', () => {
      this.#break(new Error('connection closed'));
      this.emit('close');
    });
  }

  /** Calls that wait for an answer. */
  get outstanding(): number {
    return this.#pending.size;
  }

  get usable(): boolean {
    return this.#connected && this.#broken === undefined;
  }

  /**
   * Calls a remote procedure and gathers the values that it answers with.
   * @throws CongerError as the server sent it
   * @throws ConnectionBrokenError
   */
  call(name: string, args: readonly unknown[]): Promise<unknown[]> {
    if (!this.usable) return Promise.reject(new ConnectionBrokenError(false, this.#broken));
    const msgid = this.#nextId();
    const payload = payloadOf(JSON.stringify(name), JSON.stringify(args));
    return new Promise((resolve, reject) => {
      this.#pending.set(msgid, { values: [], started: performance.now(), resolve, reject });
      this.#outbox.add(2, status.data, msgid, payload);
      this.#watch ??= this.#setWatch();
    });
  }

  destroy(): void {
    this.#break(new Error('connection closed by this side'));
  }

  ref(): void {
    this.#socket.ref();
  }

  unref(): void {
    this.#socket.unref();
  }

  #nextId(): number {
    do {
      this.#lastId = this.#lastId === maxMessageId ? 1 : this.#lastId + 1;
    } while (this.#pending.has(this.#lastId));
    return this.#lastId;
  }

  #onData(chunk: Buffer): void {
    this.#heard = performance.now();
    this.#pinged = undefined;
    try {
      this.#decoder.push(chunk);
      for (let m = this.#decoder.next(); m !== undefined; m = this.#decoder.next()) this.#receive(m);
    } catch (error) {
      this.#break(error);
    }
  }

  #receive(message: FastMessage): void {
    const call = this.#pending.get(message.msgid);
    if (call === undefined) {
      throw new FastProtocolError('unknown_msgid', `received message with unknown msgid ${message.msgid}`);
    }
    if (message.status === status.error) {
      this.#pending.delete(message.msgid);
      call.reject(fromWire(message.error));
      return;
    }
    for (const value of message.values) call.values.push(value);
    if (message.status === status.end) {
      this.#pending.delete(message.msgid);
      call.resolve(call.values);
    }
  }

  #break(cause: unknown): void {
    if (this.#broken !== undefined) return;
    const error = cause instanceof Error ? cause : new Error(String(cause));
    this.#broken = error;
    clearTimeout(this.#watch);
    this.#socket.destroy();
    const calls = [...this.#pending.values()];
    this.#pending.clear();
    for (const call of calls) call.reject(new ConnectionBrokenError(true, error));
    // Without a listener an `error` event would be thrown; `close` follows in any case.
    if (this.listenerCount('error') > 0) this.emit('error', error);
  }

  #setWatch(): NodeJS.Timeout {
    return setTimeout(() => this.#onWatch(), this.#silenceMs).unref();
  }

  #onWatch(): void {
    this.#watch = undefined;
    const [oldest] = this.#pending.values();
    if (oldest === undefined) return;
    const now = performance.now();
    const pinged = this.#pinged;
    if (pinged !== undefined && now - pinged >= this.#silenceMs * 0.9) {
      // Where this process itself was held up, the answer waits in the socket: it is read before this runs.
      setImmediate(() => {
        if (this.#pinged === pinged) {
          this.#break(new Error(`the server has been silent for ${Math.round(now - this.#heard)} ms`));
        } else if (this.#pending.size > 0) {
          this.#watch ??= this.#setWatch();
        }
      });
      return;
    }
    if (now - Math.max(this.#heard, oldest.started) >= this.#silenceMs * 0.9 && this.#pinged === undefined) {
      this.#pinged = now;
      // Its answer is not waited for: any byte tells that the server lives.
      this.call('ping', [{}]).catch(() => {});
    }
    this.#watch ??= this.#setWatch();
  }
}
