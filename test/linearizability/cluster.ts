import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { FastConnection } from '../../kvstore/fast/connection.ts';
import { type KvstoreProcess, spawnKvstore } from '../fixtures/kvstore.ts';
import { startProxy, type TcpProxy } from '../fixtures/proxy.ts';
import { type ReplicatedPostgres, startReplicatedPostgres } from '../fixtures/replicated-postgres.ts';

/** A kvstore server, at a port that stays its own, which reaches each PostgreSQL through a proxy of its own. */
export class Server {
  readonly name: string;
  readonly proxies: readonly TcpProxy[];
  readonly #postgres: string;
  readonly #log: number;
  #process: KvstoreProcess | undefined;
  #port = 0;

  private constructor(name: string, proxies: readonly TcpProxy[], log: string) {
    this.name = name;
    this.proxies = proxies;
    this.#postgres = proxies.map(({ port }) => `postgresql://conger@127.0.0.1:${port}/conger`).join(',');
    this.#log = openSync(log, 'a');
  }

  static async start(name: string, postgres: ReplicatedPostgres, log: string): Promise<Server> {
    const ports = postgres.url.split(',').map((url) => Number(new URL(url).port));
    const server = new Server(name, await Promise.all(ports.map((port) => startProxy(port))), log);
    await server.start();
    return server;
  }

  get port(): number {
    return this.#port;
  }

  async start(): Promise<void> {
    this.#process = await spawnKvstore(this.#postgres, this.#port, this.#log);
    this.#port = this.#process.port;
  }

  async kill(): Promise<void> {
    await this.#process?.kill('SIGKILL');
  }

  get pid(): number {
    const pid = this.#process?.child.pid;
    if (pid === undefined) throw new Error(`${this.name} does not run`);
    return pid;
  }

  /** Makes one call on a connection of its own. */
  async call(rpc: string, args: readonly unknown[]): Promise<readonly unknown[]> {
    const connection = new FastConnection({ host: '127.0.0.1', port: this.#port });
    try {
      await new Promise<void>((resolve, reject) => {
        connection.once('connect', resolve);
        connection.once('close', () => reject(new Error(`${this.name} takes no connections`)));
      });
      return await connection.call(rpc, args);
    } finally {
      connection.destroy();
    }
  }

  async stop(): Promise<void> {
    await this.kill();
    await Promise.all(this.proxies.map((proxy) => proxy.close()));
    closeSync(this.#log);
  }
}

export interface Cluster {
  readonly postgres: ReplicatedPostgres;
  readonly servers: readonly Server[];
  stop(): Promise<void>;
}

/** PostgreSQL, with a synchronous standby or alone, and `servers` kvstore servers, whose logs are in `directory`. */
export async function startCluster(options: {
  readonly standby: boolean;
  readonly servers: number;
  readonly directory: string;
}): Promise<Cluster> {
  // Processes are killed here, never the machine: what they have written stays, and a slow disk is not what is tested.
  const postgres = await startReplicatedPostgres({ standby: options.standby, settings: { fsync: 'off' } });
  const servers: Server[] = [];
  const stop = async () => {
    await Promise.all(servers.map((server) => server.stop()));
    await postgres.stop();
  };
  try {
    for (let i = 0; i < options.servers; i++) {
      servers.push(await Server.start(`kvstore${i}`, postgres, join(options.directory, `kvstore${i}.log`)));
    }
  } catch (error) {
    await stop();
    throw error;
  }
  return { postgres, servers, stop };
}
