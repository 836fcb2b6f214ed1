import { isIP } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import cueball, { type ConnectionSet, type StaticIpResolver } from 'cueball';
import type { Logger } from '../../runtime/log.ts';
import { FastConnection } from '../fast/connection.ts';

const recovery = { default: { retries: 3, timeout: 1_000, maxTimeout: 2_000, delay: 50, maxDelay: 1_000 } };

/** How long a stopped set may take to close its connections. */
const stopMs = 1_000;

/**
 * The connections to the kvstore servers: one to each, kept by cueball. A connection that is handed out was usable at
 * that moment, and had the fewest calls outstanding.
 */
export class Servers {
  readonly #resolver: StaticIpResolver;
  readonly #set: ConnectionSet<FastConnection>;
  readonly #connections = new Set<FastConnection>();
  readonly #waiting = new Set<() => void>();
  #turn = 0;
  #closed = false;

  /** @param urls `tcp://address:port` */
  constructor(urls: readonly string[], log: Logger) {
    const backends = urls.map(parseServer);
    if (backends.length === 0) throw new Error('no kvstore servers are configured');
    this.#resolver = new cueball.StaticIpResolver({ backends });
    this.#set = new cueball.ConnectionSet<FastConnection>({
      constructor: ({ address, port }) => new FastConnection({ host: address, port }),
      resolver: this.#resolver,
      recovery,
      target: backends.length,
      maximum: backends.length,
      connectionHandlesError: true,
      log: log.child({ component: 'kv-client' }),
    });
    this.#set.on('added', (_key, connection) => {
      this.#connections.add(connection);
      for (const wake of this.#waiting) wake();
    });
    this.#set.on('removed', (_key, connection, handle) => {
      this.#connections.delete(connection);
      handle.release();
    });
    this.#resolver.start();
  }

  /**
   * A connection to make one call on; waits for one until `until` (on performance.now()'s clock).
   * @param avoid the connection that the call has just failed on: taken only where there is no other
   */
  async acquire(until: number, avoid?: FastConnection): Promise<FastConnection | undefined> {
    for (;;) {
      const connection = this.#pick(avoid);
      if (connection !== undefined) return connection;
      const left = until - performance.now();
      if (this.#closed || left <= 0) return undefined;
      await this.#change(left);
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const wake of this.#waiting) wake();
    const stopped = new Promise<void>((resolve) => {
      this.#set.on('stateChanged', (state) => {
        if (state === 'stopped') resolve();
      });
    });
    this.#resolver.stop();
    this.#set.stop();
    await Promise.race([stopped, delay(stopMs, undefined, { ref: false })]);
    for (const connection of this.#connections) connection.destroy();
  }

  #pick(avoid: FastConnection | undefined): FastConnection | undefined {
    const usable = [...this.#connections].filter((connection) => connection.usable);
    const candidates = usable.length > 1 ? usable.filter((connection) => connection !== avoid) : usable;
    const start = this.#turn++;
    let best: FastConnection | undefined;
    for (let i = 0; i < candidates.length; i++) {
      const candidate = candidates[(start + i) % candidates.length];
      if (candidate === undefined) continue;
      if (best === undefined || candidate.outstanding < best.outstanding) best = candidate;
    }
    return best;
  }

  #change(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, ms);
      this.#waiting.add(wake);
    });
  }
}

function parseServer(url: string): { address: string; port: number } {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  const host = parsed?.hostname.replace(/^\[(.*)\]$/, '$1') ?? '';
  const address = host === 'localhost' ? '127.0.0.1' : host;
  const port = Number(parsed?.port || 2020);
  if (parsed?.protocol !== 'tcp:' || isIP(address) === 0) {
    throw new Error(`kvstore server ${url}: expected tcp://<IP address>:<port>`);
  }
  return { address, port };
}
