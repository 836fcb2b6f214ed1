import { ConnectionBrokenError, FastConnection } from '../../kvstore/fast/connection.ts';
import { etagOf } from '../../kvstore/store/etag.ts';
import { isCongerError, messageOf } from '../../runtime/errors.ts';
import type { Random } from '../random.ts';
import type { Check, Operation, Outcome } from './history.ts';

export const bucket = 'linearizability';
/** What is written there is in no history. */
export const probeBucket = 'probe';

/** After this long an attempt is given up: its outcome is unknown. */
const patienceMs = 1_000;

/** Answers that say that a write had no effect. Any other error that is not about the object is unexpected. */
const withoutEffect = [
  'NoDatabasePeersError',
  'OverloadedError',
  'QueryTimeoutError',
  'ServiceUnavailable',
] as const;

/** The operations of a run in the order in which they ended, and what was wrong with single answers. */
export class Recorder {
  readonly history: Operation[] = [];
  readonly problems: string[] = [];
  /** How many operations have been answered, about the object. */
  answered = 0;
  readonly #began = process.hrtime.bigint();
  #clients = 0;

  /** Nanoseconds since the run began. */
  now(): number {
    return Number(process.hrtime.bigint() - this.#began);
  }

  nextClient(): number {
    return this.#clients++;
  }
}

/** A condition on a write. */
export interface Condition {
  readonly check: Check;
  readonly want?: string;
}

type Answer = Pick<Operation, 'outcome' | 'exists' | 'foundValue' | 'foundEtag' | 'error'>;
type Request = Pick<Operation, 'key' | 'op' | 'value' | 'etag' | 'check' | 'want'>;

/**
 * One client, whose every attempt is an operation of the history: it makes one at a time, on one connection, and
 * never tries again by itself. When the outcome of an attempt stays unknown it goes on under another number, since
 * that attempt may yet take effect.
 */
export class Client {
  readonly #recorder: Recorder;
  readonly #random: Random;
  /** Of each server: its name in the history, and its port at this moment. */
  readonly #servers: readonly { readonly name: string; readonly port: number }[];
  #number: number;
  #writes = 0;
  #connection: FastConnection | undefined;
  #server = '';

  constructor(
    recorder: Recorder,
    random: Random,
    servers: readonly { readonly name: string; readonly port: number }[],
  ) {
    this.#recorder = recorder;
    this.#random = random;
    this.#servers = servers;
    this.#number = recorder.nextClient();
  }

  get(key: string): Promise<Operation> {
    return this.#attempt({ key, op: 'get' }, 'getObject', [bucket, key, { noCache: true }]);
  }

  put(key: string, condition: Condition): Promise<Operation> {
    const name = `${this.#number}.${++this.#writes}`;
    const value = { writer: name, number: this.#writes, a: `a${name}`, b: this.#writes % 7, c: `c${name}` };
    const request = {
      key,
      op: 'put',
      value: name,
      etag: etagOf(JSON.stringify(value)),
      ...condition,
    } as const;
    return this.#attempt(request, 'putObject', [bucket, key, value, optionsOf(condition)]);
  }

  delete(key: string, condition: Condition): Promise<Operation> {
    const request = { key, op: 'delete', ...condition } as const;
    return this.#attempt(request, 'delObject', [bucket, key, optionsOf(condition)]);
  }

  /** Breaks its connection, also in the middle of an attempt. */
  disconnect(): void {
    this.#connection?.destroy();
    this.#connection = undefined;
  }

  async #attempt(request: Request, rpc: string, args: readonly unknown[]): Promise<Operation> {
    const start = this.#recorder.now();
    const answer = await this.#call(request, rpc, args);
    const operation: Operation = {
      client: this.#number,
      ...request,
      start,
      end: this.#recorder.now(),
      ...answer,
      server: this.#server,
    };
    this.#recorder.history.push(operation);
    if (answer.outcome !== 'unknown' && answer.outcome !== 'failed') this.#recorder.answered++;
    if (answer.outcome === 'unknown') {
      this.#number = this.#recorder.nextClient();
      this.#writes = 0;
    }
    return operation;
  }

  async #call(request: Request, rpc: string, args: readonly unknown[]): Promise<Answer> {
    const connection = await this.#connect();
    if (connection === undefined) return { outcome: 'failed', error: 'no connection' };
    const patience = setTimeout(() => connection.destroy(), patienceMs);
    try {
      const [value] = await connection.call(rpc, args);
      return request.op === 'get' ? this.#read(request.key, value) : this.#written(request, value);
    } catch (error) {
      return this.#failure(request, error);
    } finally {
      clearTimeout(patience);
    }
  }

  async #connect(): Promise<FastConnection | undefined> {
    if (this.#connection?.usable) return this.#connection;
    const { name, port } = this.#random.pick(this.#servers);
    this.#server = name;
    const connection = new FastConnection({ host: '127.0.0.1', port, silenceMs: patienceMs });
    this.#connection = connection;
    const patience = setTimeout(() => connection.destroy(), patienceMs);
    const usable = await new Promise<boolean>((resolve) => {
      connection.once('connect', () => resolve(true));
      connection.once('close', () => resolve(false));
    });
    clearTimeout(patience);
    return usable ? connection : undefined;
  }

  #read(key: string, answer: unknown): Answer {
    const { value, _etag } = answer as { value: { writer: string }; _etag: string };
    const expected = etagOf(JSON.stringify(value));
    if (_etag !== expected)
      this.#problem(`${key} was read with etag ${_etag}, which is not its value's: ${expected}`);
    return { outcome: 'ok', exists: true, foundValue: value.writer, foundEtag: _etag };
  }

  #written(request: Request, answer: unknown): Answer {
    const { etag } = (answer ?? {}) as { etag?: string };
    if (request.op === 'put' && etag !== request.etag) {
      this.#problem(
        `a put of ${request.key} was answered with etag ${etag}, not its value's: ${request.etag}`,
      );
    }
    return { outcome: 'ok' };
  }

  #failure(request: Request, error: unknown): Answer {
    const name = error instanceof Error ? error.name : 'Error';
    const text = `${name}: ${messageOf(error)}`;
    const ended = (outcome: Outcome): Answer => ({ outcome, error: text });
    if (error instanceof ConnectionBrokenError) return ended(error.sent ? 'unknown' : 'failed');
    if (isCongerError(error, 'UnknownOutcomeError')) return ended('unknown');
    if (isCongerError(error, ...withoutEffect)) return ended('failed');
    if (isCongerError(error, 'ObjectNotFoundError')) return { outcome: 'missing' };
    if (isCongerError(error, 'EtagConflictError')) {
      const actual = String(error.context.actual);
      const exists = actual !== 'null';
      return { outcome: 'conflict', exists, ...(exists ? { foundEtag: actual } : {}) };
    }
    this.#problem(`an answer that was not expected to a ${request.op} of ${request.key}: ${text}`);
    return ended('unknown');
  }

  #problem(text: string): void {
    this.#recorder.problems.push(text);
  }
}

function optionsOf({ check, want }: Condition): { etag?: string | null } {
  if (check === 'any') return {};
  return { etag: check === 'none' ? null : (want ?? '') };
}
