import type pg from 'pg';
import { isCongerError } from '../../runtime/errors.ts';
import type { RpcTable } from '../rpc.ts';
import { type BatchRequest, type CallOptions, parseArguments } from './arguments.ts';
import {
  checkRequests,
  encodeRequest,
  gathered,
  oneByOne,
  operationOf,
  optionsOf,
  type Step,
  type WriteStep,
} from './batch-plan.ts';
import type { Bucket } from './bucket.ts';
import type { Connections } from './connections.ts';
import { committing, isConnectionLoss, transaction } from './database.ts';
import { writeWithHooks } from './hooked-write.ts';
import { deleteMany, updateMany } from './many.ts';
import { givenUp, isDataError, isRace, isStale, LostRace, maxAttempts, StaleBucket } from './retry.ts';
import { filterOf } from './search.ts';
import { isKeyRace, outcomeError, writeError } from './sql-errors.ts';
import { withPosition } from './standby.ts';
import { limitStatements, originOf, type Store } from './store.ts';
import type { Write } from './write.ts';
import { executeWrites, type Outcome } from './write-statement.ts';

/** What one request of a batch did. */
interface Result {
  bucket: string;
  key?: string;
  filter?: string;
  count?: number;
  etag?: string;
}

/** A step that failed, and the bucket that it was for. */
class StepFailed extends Error {
  readonly bucket: Bucket;
  /** The step's write, where it was but one. */
  readonly write: Write | undefined;

  constructor(error: unknown, bucket: Bucket, write?: Write) {
    super('a step of a batch failed', { cause: error });
    this.bucket = bucket;
    this.write = write;
  }
}

/**
 * One batch: all of it in one transaction, or nothing.
 *
 * It is first tried with its writes gathered into few statements. Where anything stands against that, it is made
 * request by request in its order, so that its error is that of the first request that fails, as in Moray.
 */
export class Batch {
  readonly #store: Store;
  readonly #requests: readonly BatchRequest[];
  readonly #options: CallOptions;
  #pool: Connections;

  constructor(store: Store, requests: readonly BatchRequest[], options: CallOptions) {
    this.#store = store;
    this.#requests = requests;
    this.#options = options;
    const searches = requests.some((r) => ['update', 'deleteMany'].includes(operationOf(r)));
    this.#pool = searches ? store.database.readers : store.database.writers;
  }

  async run(): Promise<readonly Result[]> {
    const hooked = await this.#haveHooks();
    let steps = hooked ? this.#inOrder() : gathered(this.#requests);
    let inOrder = hooked || this.#requests.length === 1;
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#attempt(steps);
      } catch (error) {
        const { cause, bucket, write } =
          error instanceof StepFailed ? error : { cause: error, bucket: undefined, write: undefined };
        const retry =
          attempt < maxAttempts &&
          (isRace(cause) || (bucket && (await isStale(cause, bucket, this.#store.registry))));
        if (retry) continue;
        const refused = bucket !== undefined && (isDataError(cause) || isCongerError(cause));
        if (!inOrder && (refused || isCongerError(cause, 'BucketNotFoundError'))) {
          inOrder = true;
          steps = oneByOne(this.#requests);
          continue;
        }
        throw bucket === undefined ? givenUp(cause) : writeError(givenUp(cause), bucket, write);
      }
    }
  }

  /** Whether any write is of a bucket with hooks. A bucket that is not there is for its own request to meet. */
  async #haveHooks(): Promise<boolean> {
    for (const name of new Set(this.#requests.map((r) => r.bucket))) {
      const bucket = await this.#store.registry.get(name).catch(() => undefined);
      if (bucket?.hooks !== undefined) return true;
    }
    return false;
  }

  /** As hooks are to see it: request by request, on a connection whose plans suit any statement. */
  #inOrder(): Step[] {
    this.#pool = this.#store.database.readers;
    return oneByOne(this.#requests);
  }

  async #attempt(steps: readonly Step[]): Promise<readonly Result[]> {
    const results: Result[] = this.#requests.map(({ bucket, key, filter }) => ({
      bucket,
      ...(key ? { key } : {}),
      ...(filter ? { filter } : {}),
    }));
    const { timeout } = this.#options;
    const [only] = steps;
    if (steps.length === 1 && only?.kind === 'writes' && !timeout) {
      const bucket = await this.#store.registry.get(only.bucket);
      if (bucket.hooks === undefined) {
        await this.#writeAlone(bucket, only, results);
        return results;
      }
    }
    await transaction(this.#pool, async (client) => {
      if (timeout) await limitStatements(client, timeout);
      for (const step of steps) {
        const name = step.kind === 'writes' ? step.bucket : this.#request(step.at).bucket;
        const bucket = await this.#store.registry.get(name);
        try {
          if (step.kind === 'writes') await this.#write(client, bucket, step, results);
          else Object.assign(results[step.at] ?? {}, await this.#search(client, bucket, step.at));
        } catch (error) {
          throw error instanceof StepFailed || isConnectionLoss(error)
            ? error
            : new StepFailed(error, bucket);
        }
      }
    });
    return results;
  }

  #request(at: number): BatchRequest {
    const request = this.#requests[at];
    if (request === undefined) throw new Error(`a batch of ${this.#requests.length} has no request ${at}`);
    return request;
  }

  async #write(client: pg.PoolClient, bucket: Bucket, step: WriteStep, results: Result[]): Promise<void> {
    if (bucket.hooks !== undefined) {
      for (const at of step.at) {
        const write = await writeWithHooks(this.#store, client, bucket, {
          request: this.#request(at),
          batch: this.#options,
          execute: (writes) => this.#execute(client, bucket, writes),
        });
        report(results[at], write);
      }
      return;
    }
    const writes = this.#encode(bucket, step);
    await this.#execute(client, bucket, writes);
    for (const [i, write] of writes.entries()) report(results[step.at[i] ?? -1], write);
  }

  /** A step that is all of the batch: its statement is a transaction by itself. */
  async #writeAlone(bucket: Bucket, step: WriteStep, results: Result[]): Promise<void> {
    const writes = this.#encode(bucket, step);
    const outcomes = committing(this.#pool, (client) => executeWrites(client, bucket, writes, 'whole'));
    await this.#settle(bucket, writes, outcomes);
    for (const [i, write] of writes.entries()) report(results[step.at[i] ?? -1], write);
  }

  #encode(bucket: Bucket, step: WriteStep): Write[] {
    try {
      return step.at.map((at) => encodeRequest(bucket, this.#request(at), this.#options));
    } catch (error) {
      throw new StepFailed(error, bucket);
    }
  }

  async #execute(client: pg.PoolClient, bucket: Bucket, writes: readonly Write[]): Promise<void> {
    await this.#settle(bucket, writes, executeWrites(client, bucket, writes, 'whole'));
  }

  /** Resolves where all was written. Of other errors than of the step, such as of the connection, it makes nothing. */
  async #settle(
    bucket: Bucket,
    writes: readonly Write[],
    executed: Promise<readonly Outcome[] | undefined>,
  ): Promise<void> {
    const single = writes.length === 1 ? writes[0] : undefined;
    const outcomes = await executed.catch((error: unknown) => {
      if (isCongerError(error) || isConnectionLoss(error)) throw error;
      throw new StepFailed(isKeyRace(error, bucket.name) ? new LostRace() : error, bucket, single);
    });
    if (outcomes === undefined) throw new StepFailed(new StaleBucket(bucket), bucket);
    if (outcomes.every(({ kind }) => kind === 'written')) return;
    const at = outcomes.findIndex(({ kind }) => kind !== 'written' && kind !== 'withheld');
    const write = writes[Math.max(at, 0)];
    if (write !== undefined) throw new StepFailed(outcomeError(bucket.name, write, outcomes[at]), bucket);
  }

  async #search(
    client: pg.PoolClient,
    bucket: Bucket,
    at: number,
  ): Promise<{ count: number; etag?: string }> {
    const request = this.#request(at);
    const text = request.filter ?? '';
    const options = optionsOf(request, this.#options);
    const many = { bucket, filter: filterOf(text), text, options, origin: originOf(this.#options) };
    return operationOf(request) === 'update'
      ? updateMany(client, many, request.fields ?? {})
      : deleteMany(client, many);
  }
}

function report(result: Result | undefined, write: Write): void {
  if (result !== undefined && write.etag !== null) result.etag = write.etag;
}

/** batch. */
export function batchRpcs(store: Store): RpcTable {
  return {
    async batch({ args, send }) {
      const [requests, options] = parseArguments('batch', args, [
        ['requests', 'requests'],
        ['options', 'options'],
      ]);
      checkRequests(requests);
      const answer = { etags: await new Batch(store, requests, options).run() };
      await send([await withPosition(store.database, options, answer)]);
    },
  };
}
