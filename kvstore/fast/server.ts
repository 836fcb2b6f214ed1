import { once } from 'node:events';
import { createServer, type Server } from 'node:net';
import { messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import type { RpcTable } from '../rpc.ts';
import { Budget } from './budget.ts';
import { connectionCount } from './metrics.ts';
import { Session, type SessionOptions } from './session.ts';

export interface FastServerOptions {
  readonly rpcs: RpcTable;
  readonly log: Logger;
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  readonly limits?: Partial<Pick<SessionOptions, 'maxRequest' | 'maxPending' | 'stallMs'>> & {
    /** What the calls in flight on all connections may take together, in bytes. */
    readonly maxInFlight?: number;
  };
}

/** Of requests in flight, in bytes: several times what 1,024 clients put at once, and a few of the greatest. */
const maxInFlight = 64 * 1024 * 1024;
/** Greatest request: a batch of a few of the greatest objects (1 MB each) fits. */
const maxRequest = 16 * 1024 * 1024;

/**
 * The server of the fast protocol over a table of procedures. Nothing that a client sends ends it: a session's faults
 * stay in the session.
 */
export class FastServer {
  readonly #server: Server;
  readonly #sessions = new Set<Session>();
  readonly #log: Logger;

  private constructor(options: FastServerOptions) {
    this.#log = options.log;
    const sessionOptions: SessionOptions = {
      rpcs: options.rpcs,
      log: options.log,
      maxRequest,
      maxPending: 1024,
      stallMs: 30_000,
      budget: new Budget(options.limits?.maxInFlight ?? maxInFlight),
      ...options.limits,
    };
    this.#server = createServer({ allowHalfOpen: true, highWaterMark: 64 * 1024 }, (socket) => {
      const session = new Session(socket, sessionOptions);
      this.#sessions.add(session);
      connectionCount.inc();
      socket.once('close', () => {
        this.#sessions.delete(session);
        connectionCount.dec();
      });
    });
  }

  static async listen(options: FastServerOptions): Promise<FastServer> {
    const server = new FastServer(options);
    server.#server.listen(options.port, options.host, 1024);
    await once(server.#server, 'listening');
    // A failed accept (out of descriptors) concerns one client; the server goes on.
    server.#server.on('error', (error) => server.#log.error({ err: error }, messageOf(error)));
    return server;
  }

  get port(): number {
    const address = this.#server.address();
    return address !== null && typeof address === 'object' ? address.port : 0;
  }

  get connections(): number {
    return this.#sessions.size;
  }

  /** Stops accepting, answers what is in flight for up to `graceMs`, and ends every connection. */
  async close(graceMs: number): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    await Promise.all([...this.#sessions].map((session) => session.close(graceMs)));
    await closed;
  }
}
