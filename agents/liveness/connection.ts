import { randomUUID } from 'node:crypto';
import { WebSocket } from 'ws';
import { messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import { type FromAgent, type ToAgent, toAgentSchema } from '../contract/wire.ts';
import { agentMetrics } from '../metrics.ts';

import { Backoff, sleep } from './backoff.ts';
import { Instances } from './instances.ts';

export interface ConnectionOptions {
  readonly node: string;
  readonly cnapi: readonly string[];
  readonly sysinfo: () => Promise<Record<string, unknown>>;
  readonly onMessage: (message: ToAgent) => void;
  readonly log: Logger;
  readonly signal: AbortSignal;
  /** After this many milliseconds of silence a peer counts as gone. */
  readonly silenceMs: number;
}

/** CNAPI does not know the node: it has to register again. */
class UnknownNode extends Error {}

/**
 * The node's way to CNAPI: it registers, then keeps one websocket to any of the instances, and goes to the next one when that
 * ends. Every connection begins with a snapshot, so nothing depends on what an earlier one had told.
 */
export class Connection {
  readonly #options: ConnectionOptions;
  readonly #instances: Instances;
  readonly #boot = randomUUID();
  #registered = false;
  #socket: WebSocket | null = null;
  #applied: Extract<FromAgent, { type: 'applied' }> | null = null;
  #loop: Promise<void> | null = null;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#instances = new Instances(options.cnapi);
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  /** Resolves once the connection is closed; the signal has to be aborted for it. */
  async closed(): Promise<void> {
    await this.#loop;
  }

  /** Tells CNAPI what the kernel shows: at once, or as soon as there is a connection. */
  applied(position: string, failed: readonly { key: string; reason: string }[]): void {
    this.#applied = { type: 'applied', position, failed: [...failed] };
    if (this.#socket !== null) this.#send(this.#socket, this.#applied);
  }

  async #run(): Promise<void> {
    const { signal, log } = this.#options;
    const backoff = new Backoff();
    while (!signal.aborted) {
      try {
        await this.#register();
        await this.#session(() => backoff.reset());
      } catch (error) {
        if (error instanceof UnknownNode) this.#registered = false;
        if (!signal.aborted) {
          log.warn({ cnapi: this.#instances.current }, `no connection to CNAPI: ${messageOf(error)}`);
        }
      }
      this.#instances.next();
      await sleep(backoff.take(), signal);
    }
  }

  async #register(): Promise<void> {
    if (this.#registered) return;
    const { node, signal, log } = this.#options;
    const body = { sysinfo: await this.#options.sysinfo() };
    const answer = await this.#instances.call('POST', `/servers/${node}/sysinfo`, body, null, signal);
    if (answer.status >= 300) throw new Error(`sysinfo: ${answer.status} ${answer.text.slice(0, 500)}`);
    this.#registered = true;
    log.info({ cnapi: this.#instances.current }, 'registered');
  }

  /** One connection from its beginning to its end; always rejects, with why it ended. */
  #session(onSnapshot: () => void): Promise<never> {
    const { node, log, signal, silenceMs } = this.#options;
    return new Promise((_, reject) => {
      const url = `${this.#instances.current.replace(/^http/, 'ws')}/servers/${node}/agent`;
      const socket = new WebSocket(url, { handshakeTimeout: silenceMs, maxPayload: 256 * 2 ** 20 });
      let heard = Date.now();
      let why: unknown = new Error('the connection was closed');
      const fail = (error: unknown) => {
        why = error;
        socket.terminate();
      };
      const watch = setInterval(() => {
        if (Date.now() - heard > silenceMs) fail(new Error(`nothing was heard for ${silenceMs} ms`));
        else if (socket.readyState === WebSocket.OPEN) socket.ping();
      }, silenceMs / 4);
      const onAbort = () => fail(new Error('the agent ends'));
      signal.addEventListener('abort', onAbort);
      if (signal.aborted) onAbort();

      socket.on('open', () => {
        heard = Date.now();
        log.info({ cnapi: this.#instances.current }, 'connected');
        this.#send(socket, { type: 'hello', v: 1, server_uuid: node, boot: this.#boot });
      });
      socket.on('unexpected-response', (_request, response) => {
        const text = `the upgrade was answered ${response.statusCode}`;
        fail(response.statusCode === 404 ? new UnknownNode(text) : new Error(text));
      });
      socket.on('ping', () => {
        heard = Date.now();
      });
      socket.on('pong', () => {
        heard = Date.now();
      });
      socket.on('message', (data) => {
        heard = Date.now();
        try {
          const message = toAgentSchema.parse(JSON.parse(String(data)));
          // Only after its snapshot does a connection know what the node is to be.
          if (message.type === 'snapshot') {
            this.#socket = socket;
            agentMetrics.connected.set(1);
            onSnapshot();
          } else if (this.#socket !== socket) {
            throw new Error(`a ${message.type} came before the snapshot`);
          }
          this.#options.onMessage(message);
        } catch (error) {
          // A message that is skipped would leave a gap; the next snapshot leaves none.
          fail(error);
        }
      });
      socket.on('error', (error) => {
        why = error;
      });
      socket.on('close', () => {
        clearInterval(watch);
        signal.removeEventListener('abort', onAbort);
        if (this.#socket === socket) this.#socket = null;
        agentMetrics.connected.set(0);
        reject(why);
      });
    });
  }

  #send(socket: WebSocket, message: FromAgent): void {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  }
}
