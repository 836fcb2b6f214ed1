import { once } from 'node:events';
import type { Socket } from 'node:net';
import { CongerError, isCongerError, messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import type { RpcTable } from '../rpc.ts';
import type { Budget } from './budget.ts';
import {
  FastDecoder,
  type FastMessage,
  FastProtocolError,
  type FastStatus,
  type FastVersion,
  type Oversized,
  payloadOf,
  status,
  type WireError,
} from './codec.ts';
import { badMethod, badRequest, toWire } from './errors.ts';
import { requestCount, requestSeconds } from './metrics.ts';
import { Outbox } from './outbox.ts';

export interface SessionOptions {
  readonly rpcs: RpcTable;
  readonly log: Logger;
  /** Greatest request that is accepted, in bytes of JSON. What is longer is skipped and answered InvocationError. */
  readonly maxRequest: number;
  /** Calls in flight on one connection, past which nothing more is read from it. */
  readonly maxPending: number;
  /** What the calls in flight on all connections may take together. */
  readonly budget: Budget;
  /** How long a client may leave its answers unread before its connection is dropped. */
  readonly stallMs: number;
}

/** A request that claims to be longer is none: the connection ends. */
const maxSkipped = 1024 * 1024 * 1024;

/**
 * The server's side of one connection. Every request that is read gets exactly one END or ERROR, in whatever order
 * they finish, unless the connection is gone; then its calls are aborted, and what they still send is dropped. A peer
 * that breaks the protocol loses this connection and nothing else.
 */
export class Session {
  readonly #socket: Socket;
  readonly #options: SessionOptions;
  readonly #decoder: FastDecoder;
  readonly #outbox: Outbox;
  readonly #gone = new AbortController();
  readonly #pending = new Set<number>();
  #drained: Promise<void> | undefined;
  #closing = false;
  #idle: (() => void) | undefined;

  constructor(socket: Socket, options: SessionOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#outbox = new Outbox(socket);
    this.#decoder = new FastDecoder(options.maxRequest, {
      upTo: maxSkipped,
      report: (message) => this.#refuseOversized(message),
    });
    socket.setNoDelay(true);
    socket.setKeepAlive(true, 10_000);
    socket.on('data', (chunk) => {
      this.#decoder.push(chunk);
      this.#read();
    });
    socket.on('error', (error) => this.#end(error));
    socket.on('end', () => this.#onEnd());
    socket.on('close', () => this.#end(new Error('connection closed')));
  }

  get pending(): number {
    return this.#pending.size;
  }

  /** Refuses new requests, lets those in flight finish for up to `graceMs`, and ends the connection. */
  async close(graceMs: number): Promise<void> {
    this.#closing = true;
    if (this.#socket.destroyed) return;
    const closed = once(this.#socket, 'close');
    if (this.#pending.size > 0) {
      const timer = setTimeout(() => this.#socket.destroy(), graceMs);
      await Promise.race([new Promise<void>((resolve) => (this.#idle = resolve)), closed]);
      clearTimeout(timer);
    }
    // An answer that is still in the socket's buffer goes out before the FIN; the client then closes its side.
    const timer = setTimeout(() => this.#socket.destroy(), 500);
    this.#outbox.flush();
    this.#socket.end();
    this.#socket.resume();
    await closed;
    clearTimeout(timer);
  }

  #onEnd(): void {
    try {
      this.#decoder.end();
      this.#end(new Error('client closed the connection'));
    } catch (error) {
      this.#end(error);
    }
  }

  #end(cause: unknown): void {
    if (!this.#gone.signal.aborted) {
      if (cause instanceof FastProtocolError) {
        this.#options.log.warn(
          { peer: this.#socket.remoteAddress, reason: cause.reason },
          `dropping a connection: ${cause.message}`,
        );
      }
      // A reason of its own: calls are not to take what broke this connection for what broke one to PostgreSQL.
      this.#gone.abort(new Error('the client is gone', { cause }));
    }
    this.#socket.destroy();
  }

  #read(): void {
    try {
      while (!this.#gone.signal.aborted) {
        if (this.#pending.size >= this.#options.maxPending) {
          this.#socket.pause();
          return;
        }
        if (this.#socket.writableNeedDrain) {
          this.#socket.pause();
          this.#drain().then(() => this.#read(), ignore);
          return;
        }
        const message = this.#decoder.next();
        if (message === undefined) {
          if (this.#socket.isPaused()) this.#socket.resume();
          return;
        }
        this.#receive(message);
      }
    } catch (error) {
      this.#end(error);
    }
  }

  #receive(message: FastMessage): void {
    if (!this.#isRequest(message)) return;
    const { version, msgid, name, values } = message;
    if (name === undefined) {
      this.#refuse(version, msgid, undefined, badRequest(msgid));
      return;
    }
    const quoted = JSON.stringify(name);
    if (!Object.hasOwn(this.#options.rpcs, name)) {
      this.#refuse(version, msgid, quoted, badMethod(msgid, name));
    } else if (this.#closing) {
      const error = new CongerError('OverloadedError', 'the server is shutting down');
      this.#refuse(version, msgid, quoted, toWire(error));
    } else if (!this.#options.budget.take(this.#decoder.size)) {
      this.#refuse(version, msgid, quoted, toWire(this.#options.budget.exhausted()));
    } else {
      this.#pending.add(msgid);
      void this.#run(version, msgid, name, quoted, values, this.#decoder.size);
    }
  }

  /**
   * Whether there is something to answer.
   * @throws FastProtocolError
   */
  #isRequest<M extends { readonly status: FastStatus; readonly msgid: number }>(
    message: M,
  ): message is M & { readonly status: typeof status.data } {
    // Some clients ask for a call's end this way; node-fast's server ignores it, and the call runs to its end.
    if (message.status === status.error) return false;
    if (message.status === status.end) {
      throw new FastProtocolError('unexpected_status', 'unexpected END event from client');
    }
    if (this.#pending.has(message.msgid)) {
      throw new FastProtocolError('duplicate_msgid', 'client attempted to re-use msgid');
    }
    return true;
  }

  #refuseOversized(message: Oversized): void {
    if (!this.#isRequest(message)) return;
    const { version, msgid, length: bytes } = message;
    const limit = this.#options.maxRequest;
    const error = new CongerError(
      'InvocationError',
      `the request is too large: ${bytes} bytes of JSON, and the limit is ${limit}`,
      { context: { bytes, limit } },
    );
    this.#refuse(version, msgid, undefined, toWire(error));
  }

  /** @param name as JSON */
  #refuse(version: FastVersion, msgid: number, name: string | undefined, error: WireError): void {
    requestCount.inc({ rpc: 'refused', outcome: error.name });
    this.#outbox.add(version, status.error, msgid, payloadOf(name, errorJson(error)));
  }

  async #run(
    version: FastVersion,
    msgid: number,
    name: string,
    quoted: string,
    args: readonly unknown[],
    size: number,
  ): Promise<void> {
    const started = performance.now();
    let outcome = 'ok';
    try {
      const handler = this.#options.rpcs[name];
      if (handler === undefined) throw new Error(`no handler for ${name}`);
      await handler({
        args,
        signal: this.#gone.signal,
        send: (values) => this.#send(version, msgid, quoted, JSON.stringify(values)),
        sendJson: (texts) => this.#send(version, msgid, quoted, arrayOf(texts)),
      });
      this.#outbox.add(version, status.end, msgid, payloadOf(quoted, '[]'));
    } catch (error) {
      if (this.#gone.signal.aborted) {
        outcome = 'aborted';
      } else {
        const wire = this.#describe(name, args, error);
        outcome = wire.name;
        this.#outbox.add(version, status.error, msgid, payloadOf(quoted, errorJson(wire)));
      }
    }
    requestCount.inc({ rpc: name, outcome });
    requestSeconds.observe({ rpc: name }, (performance.now() - started) / 1000);
    this.#options.budget.give(size);
    this.#pending.delete(msgid);
    if (this.#pending.size === 0) this.#idle?.();
    if (this.#socket.isPaused() && !this.#gone.signal.aborted) this.#read();
  }

  #send(version: FastVersion, msgid: number, name: string, values: string): Promise<void> {
    this.#gone.signal.throwIfAborted();
    return this.#outbox.add(version, status.data, msgid, payloadOf(name, values)) ? delivered : this.#drain();
  }

  /** The error as it goes to the client. What is a fault of this server is also logged. */
  #describe(name: string, args: readonly unknown[], error: unknown): WireError {
    if (!isCongerError(error)) {
      this.#options.log.error(
        { err: error, rpc: name, req_id: requestId(args) },
        `${name} failed: ${messageOf(error)}`,
      );
    }
    return toWire(error);
  }

  #drain(): Promise<void> {
    if (this.#drained === undefined) {
      this.#drained = this.#untilDrained().finally(() => {
        this.#drained = undefined;
      });
      // A handler need not wait for what it sent.
      this.#drained.catch(ignore);
    }
    return this.#drained;
  }

  async #untilDrained(): Promise<void> {
    const timer = setTimeout(
      () => this.#end(new Error('the client does not read its answers')),
      this.#options.stallMs,
    );
    try {
      await once(this.#socket, 'drain', { signal: this.#gone.signal });
    } finally {
      clearTimeout(timer);
    }
  }
}

const delivered = Promise.resolve();
const ignore = () => {};

/** Put together by `+`, the texts are copied once, when the message is written; `join` would copy them once more. */
function arrayOf(texts: readonly string[]): string {
  let json = '[';
  for (const text of texts) json += json === '[' ? text : `,${text}`;
  return `${json}]`;
}

function errorJson(error: WireError): string {
  try {
    return JSON.stringify(error);
  } catch {
    // What the error carries cannot be written as JSON; its name and message can.
    return JSON.stringify({ name: error.name, message: error.message, context: {} });
  }
}

/** The request id of a call, for the log: its options are the last object that has one. */
function requestId(args: readonly unknown[]): string | undefined {
  for (const arg of args.toReversed()) {
    if (typeof arg === 'object' && arg !== null && 'req_id' in arg && typeof arg.req_id === 'string') {
      return arg.req_id;
    }
  }
  return undefined;
}
