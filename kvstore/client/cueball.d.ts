/** The part of cueball that is used here; it ships no types. */
declare module 'cueball' {
  import type { EventEmitter } from 'node:events';

  interface Backend {
    readonly key: string;
    readonly address: string;
    readonly port: number;
  }

  interface Handle {
    release(): void;
    close(): void;
    disableReleaseLeakCheck(): void;
  }

  interface Connection extends EventEmitter {
    destroy(): void;
    ref(): void;
    unref(): void;
  }

  interface Recovery {
    /** Attempts before a backend counts as dead; it is then tried for ever, every `maxDelay`. */
    readonly retries: number;
    /** Milliseconds. */
    readonly timeout: number;
    readonly maxTimeout: number;
    readonly delay: number;
    readonly maxDelay: number;
  }

  class StaticIpResolver {
    constructor(options: {
      readonly backends: readonly { readonly address: string; readonly port: number }[];
    });
    start(): void;
    stop(): void;
  }

  /** Keeps at most one connection a backend; tells of each with `added`, and takes it back with `removed`. */
  class ConnectionSet<C extends Connection> {
    constructor(options: {
      readonly constructor: (backend: Backend) => C;
      readonly resolver: StaticIpResolver;
      readonly recovery: { readonly default: Recovery };
      readonly target: number;
      readonly maximum: number;
      readonly connectionHandlesError: boolean;
      readonly log: object;
    });
    on(event: 'added', listener: (key: string, connection: C, handle: Handle) => void): this;
    on(event: 'removed', listener: (key: string, connection: C, handle: Handle) => void): this;
    on(event: 'stateChanged', listener: (state: string) => void): this;
    isInState(state: string): boolean;
    stop(): void;
  }

  const cueball: {
    readonly ConnectionSet: typeof ConnectionSet;
    readonly StaticIpResolver: typeof StaticIpResolver;
  };

  export type { Backend, Connection, ConnectionSet, Handle, Recovery, StaticIpResolver };
  export default cueball;
}
