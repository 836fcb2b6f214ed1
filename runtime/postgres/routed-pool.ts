import pg from 'pg';
import { destroy } from './host-watch.ts';

type OnConnect = ((error: Error) => void) | ((error: null, client: pg.Client) => void);

export interface RoutedPool {
  readonly pool: pg.Pool;
  /** Ends all connections that lead elsewhere than to the targets of now. */
  retarget(): void;
}

/**
 * A pool whose connections each lead to one of `targets()`, taken in turn at the moment that it is opened. Where there
 * is none it fails to connect.
 */
export function openRoutedPool(targets: () => readonly string[], config: pg.PoolConfig): RoutedPool {
  const open = new Map<pg.Client, string | undefined>();
  let turn = 0;

  class RoutedClient extends pg.Client {
    readonly #target: string | undefined;

    constructor(options?: pg.ClientConfig) {
      const now = targets();
      const target = now[turn++ % now.length];
      super({ ...options, ...(target === undefined ? {} : { connectionString: target }) });
      this.#target = target;
      open.set(this, target);
      this.on('end', () => open.delete(this));
    }

    override connect(): Promise<pg.Client>;
    override connect(callback: OnConnect): void;
    override connect(callback?: OnConnect): Promise<pg.Client> | undefined {
      if (this.#target !== undefined) {
        if (callback === undefined) return super.connect();
        super.connect(callback);
        return undefined;
      }
      open.delete(this);
      const error = new Error('Connection terminated: there is no server to connect to');
      if (callback === undefined) return Promise.reject(error);
      process.nextTick(callback as (error: Error) => void, error);
      return undefined;
    }
  }

  return {
    pool: new pg.Pool({ ...config, Client: RoutedClient }),
    retarget: () => {
      const now = new Set<string | undefined>(targets());
      for (const [client, target] of open) if (!now.has(target)) destroy(client);
    },
  };
}
