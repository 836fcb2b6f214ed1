import { silentLogger } from '../../runtime/log.ts';
import type { Hook } from '../hooks/hook.ts';
import type { RpcCall } from '../rpc.ts';
import { createStore, type OpenStore } from './index.ts';

/** Calls of a store as a client makes them, for tests. */
export interface TestStore {
  readonly store: OpenStore;
  /** Makes a call and answers all that it sends. */
  call(method: string, ...args: unknown[]): Promise<unknown[]>;
  /** The first of what it sends. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers freely
  first(method: string, ...args: unknown[]): Promise<any>;
}

export async function openTestStore(
  url: string,
  options: { sql?: boolean; poolSize?: number; hooks?: ReadonlyMap<string, Hook> } = {},
): Promise<TestStore> {
  const store = await createStore({
    url,
    poolSize: options.poolSize ?? 8,
    log: silentLogger(),
    sql: options.sql ?? false,
    hooks: options.hooks ?? new Map(),
  });
  const call = async (method: string, ...args: unknown[]) => {
    const sent: unknown[] = [];
    const handler = store.rpcs[method];
    if (handler === undefined) throw new Error(`there is no call ${method}`);
    // As over the wire: what is undefined is not there.
    const wire = JSON.parse(JSON.stringify(args)) as unknown[];
    await handler(
      rpcCall(wire, async (values) => {
        sent.push(...values);
      }),
    );
    return sent;
  };
  return { store, call, first: async (method, ...args) => (await call(method, ...args))[0] };
}

/** A call whose values go to `send`, in whichever form the procedure sends them. */
export function rpcCall(
  args: readonly unknown[],
  send: RpcCall['send'],
  signal = new AbortController().signal,
): RpcCall {
  return {
    args,
    send,
    sendJson: (texts) => send(texts.map((text): unknown => JSON.parse(text))),
    signal,
  };
}
