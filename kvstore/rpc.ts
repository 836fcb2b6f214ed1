/**
 * What stands between the fast protocol's server (kvstore/fast) and the store behind it (kvstore/store): a call by
 * name with JSON arguments, answered by any number of data messages and then an end or an error.
 */
export interface RpcCall {
  readonly args: readonly unknown[];
  /** Sends one data message, an array of values. Resolves when the connection can take more (back pressure). */
  send(values: readonly unknown[]): Promise<void>;
  /**
   * The same for values that are JSON already: each text is that of one value, and reaches the client byte for byte.
   * Nothing looks into it, so a text that is no JSON breaks the client's connection.
   */
  sendJson(texts: readonly string[]): Promise<void>;
  /** Aborted when the client is gone. All calls of one connection have the same. */
  readonly signal: AbortSignal;
}

/** Resolves: the call ends well. Rejects: the error goes to the client by its name, message and context. */
export type RpcHandler = (call: RpcCall) => Promise<void>;

export type RpcTable = Readonly<Record<string, RpcHandler>>;
