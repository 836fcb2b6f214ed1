import { AsyncLocalStorage } from 'node:async_hooks';
import { randomBytes, randomUUID } from 'node:crypto';

/**
 * Which request a piece of work belongs to. It enters with a REST call or a change, travels through the KV tier
 * into the change that the write causes, and so on to the compute node: one id names the whole way.
 */
export interface Trace {
  /** Triton's `x-request-id`: a UUID. */
  readonly requestId: string;
  /** W3C `traceparent`. */
  readonly traceparent: string;
}

const storage = new AsyncLocalStorage<Trace>();

export function newTrace(requestId?: string, traceparent?: string): Trace {
  return {
    requestId: requestId ?? randomUUID(),
    traceparent: traceparent ?? `00-${randomBytes(16).toString('hex')}-${randomBytes(8).toString('hex')}-01`,
  };
}

export function currentTrace(): Trace | undefined {
  return storage.getStore();
}

/** Runs `work`, and all that it awaits, as part of `trace`. */
export function withTrace<T>(trace: Trace, work: () => T): T {
  return storage.run(trace, work);
}
