import { setTimeout as delay } from 'node:timers/promises';
import { CongerError, isCongerError, messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import { counter } from '../../runtime/metrics.ts';
import { currentTrace } from '../../runtime/trace.ts';
import { ConnectionBrokenError, type FastConnection } from '../fast/connection.ts';
import type { Servers } from './servers.ts';

const retries = counter(
  'conger_kv_client_retries_total',
  'Calls to the KV tier that were tried again, by reason',
  ['rpc', 'reason'],
);

export interface Call {
  readonly rpc: string;
  /** The call's arguments; `options` is the object that carries the request id, placed where the procedure wants it. */
  readonly args: (options: Readonly<Record<string, unknown>>) => readonly unknown[];
  readonly options?: Readonly<Record<string, unknown>>;
  /** Present on writes. Called where a try met `error` after another try's outcome had stayed unknown. */
  readonly settle?: Settle;
  /** Milliseconds. */
  readonly deadlineMs?: number;
}

/** Answers what the write would have answered, if it is seen to have happened; else throws. */
export type Settle = (error: CongerError) => Promise<readonly unknown[]>;

const firstPauseMs = 20;
const longestPauseMs = 1_000;

/**
 * Makes calls, and makes them again elsewhere when a server or its database is away. A call ends with the server's
 * answer, or with an error once the deadline has passed. A write that may have happened is never reported as not
 * having happened: it ends well, with UnknownOutcomeError, or with an error that holds in either case.
 */
export class Caller {
  readonly #servers: Servers;
  readonly #log: Logger;
  readonly #deadlineMs: number;

  constructor(servers: Servers, log: Logger, deadlineMs: number) {
    this.#servers = servers;
    this.#log = log;
    this.#deadlineMs = deadlineMs;
  }

  /** @throws CongerError */
  async call(call: Call): Promise<readonly unknown[]> {
    const until = performance.now() + (call.deadlineMs ?? this.#deadlineMs);
    const args = call.args(withTraceOptions(call.options));
    let failedOn: FastConnection | undefined;
    let last: unknown;
    let uncertain: unknown;
    for (let attempt = 0; ; attempt++) {
      const connection = await this.#servers.acquire(until, failedOn);
      if (connection === undefined) break;
      try {
        return await connection.call(call.rpc, args);
      } catch (error) {
        last = error;
        failedOn = connection;
        const reason = retryReason(error);
        if (reason === undefined) {
          if (uncertain === undefined || call.settle === undefined || holdsForEveryTry(error)) {
            throw asCongerError(error);
          }
          if (isConflict(error)) return await call.settle(error);
          break;
        }
        if (reason === 'unknown_outcome' && call.settle !== undefined) uncertain = error;
        retries.inc({ rpc: call.rpc, reason });
        this.#log.debug({ rpc: call.rpc, reason, attempt }, `call failed, trying again: ${messageOf(error)}`);
        // The first try after a broken connection goes to another server at once.
        if (attempt > 0 || reason === 'unavailable') {
          const pause = Math.random() * Math.min(longestPauseMs, firstPauseMs * 2 ** attempt);
          if (performance.now() + pause >= until) break;
          await delay(pause);
        }
      }
    }
    if (uncertain !== undefined) {
      throw new CongerError('UnknownOutcomeError', `${call.rpc}: the write may or may not have happened`, {
        cause: uncertain,
      });
    }
    if (isCongerError(last)) throw last;
    throw new CongerError('ServiceUnavailable', 'no kvstore server can be reached', { cause: last });
  }
}

/** Why a call that met `error` is tried again; undefined: it is not. */
function retryReason(error: unknown): 'not_sent' | 'unknown_outcome' | 'unavailable' | undefined {
  if (error instanceof ConnectionBrokenError) return error.sent ? 'unknown_outcome' : 'not_sent';
  if (isCongerError(error, 'UnknownOutcomeError')) return 'unknown_outcome';
  if (isCongerError(error, 'NoDatabasePeersError', 'OverloadedError')) return 'unavailable';
  return undefined;
}

function asCongerError(error: unknown): CongerError {
  if (isCongerError(error)) return error;
  return new CongerError('InvocationError', `arguments that cannot be sent: ${messageOf(error)}`, {
    cause: error,
  });
}

/** What a write can meet because its own first try had succeeded. */
function isConflict(error: unknown): error is CongerError {
  return isCongerError(error, 'EtagConflictError', 'UniqueAttributeError', 'ObjectNotFoundError');
}

/** Of errors about the request itself, which every try of it meets. */
const refusals: ReadonlySet<number> = new Set([400, 403, 501]);

/** Whether the error says of all tries that nothing was written. */
function holdsForEveryTry(error: unknown): boolean {
  return !isCongerError(error) || refusals.has(error.status);
}

function withTraceOptions(options: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  const trace = currentTrace();
  if (trace === undefined) return { ...options };
  return { ...options, req_id: trace.requestId, traceparent: trace.traceparent };
}
