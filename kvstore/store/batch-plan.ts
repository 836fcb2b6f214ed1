import { CongerError } from '../../runtime/errors.ts';
import type { BatchRequest, CallOptions } from './arguments.ts';
import type { Bucket } from './bucket.ts';
import { deleteCheck, originOf, putCheck } from './store.ts';
import { encodeDelete, encodePut, type Write } from './write.ts';

/** Writes of one statement: of distinct keys of one bucket. */
export interface WriteStep {
  readonly kind: 'writes';
  readonly bucket: string;
  /** Places in the batch. */
  readonly at: readonly number[];
}

/** An update or deleteMany, which sees what came before it in the batch. */
export interface FilterStep {
  readonly kind: 'filter';
  readonly at: number;
}

export type Step = WriteStep | FilterStep;

const maxRows = 500;

export function operationOf(request: BatchRequest): 'put' | 'delete' | 'update' | 'deleteMany' {
  return request.operation ?? 'put';
}

/** @throws InvocationError where a request lacks what its operation needs */
export function checkRequests(requests: readonly BatchRequest[]): void {
  for (const [i, request] of requests.entries()) {
    const operation = operationOf(request);
    const needed = {
      put: ['key', 'value'],
      delete: ['key'],
      update: ['filter', 'fields'],
      deleteMany: ['filter'],
    }[operation];
    for (const name of needed) {
      const given = request[name];
      if (given !== undefined && given !== '') continue;
      throw new CongerError(
        'InvocationError',
        `batch expects "requests" (args[0]) to be an array of valid request objects: requests[${i}] should have required property '${name}'`,
      );
    }
  }
}

/** Every request as a step of its own, in order. */
export function oneByOne(requests: readonly BatchRequest[]): Step[] {
  return requests.map((request, at) => {
    const operation = operationOf(request);
    if (operation === 'update' || operation === 'deleteMany') return { kind: 'filter', at };
    return { kind: 'writes', bucket: request.bucket, at: [at] };
  });
}

/**
 * Puts and deletes of distinct keys gathered into one step a bucket. As the batch happens whole, their order does not
 * show, unless a unique value moves from one object to another: then PostgreSQL refuses, and the batch is to be made
 * one by one.
 */
export function gathered(requests: readonly BatchRequest[]): Step[] {
  const steps: Step[] = [];
  let open = new Map<string, { keys: Set<string>; at: number[] }>();
  const close = () => {
    // All batches lock buckets in one order, so that they do not wait for each other in a circle.
    const inOrder = [...open].sort(([a], [b]) => (a < b ? -1 : 1));
    for (const [bucket, { at }] of inOrder) steps.push({ kind: 'writes', bucket, at });
    open = new Map();
  };
  for (const [at, request] of requests.entries()) {
    const operation = operationOf(request);
    if (operation === 'update' || operation === 'deleteMany') {
      close();
      steps.push({ kind: 'filter', at });
      continue;
    }
    const key = request.key ?? '';
    const group = open.get(request.bucket);
    if (group?.keys.has(key) || (group !== undefined && group.at.length >= maxRows)) close();
    const into = open.get(request.bucket) ?? { keys: new Set(), at: [] };
    into.keys.add(key);
    into.at.push(at);
    open.set(request.bucket, into);
  }
  close();
  return steps;
}

/** Options of the batch go over those of one request, as in Moray. */
export function optionsOf(request: BatchRequest, batch: CallOptions): CallOptions {
  return { ...request.options, ...batch };
}

/** @throws InvalidIndexTypeError */
export function encodeRequest(bucket: Bucket, request: BatchRequest, batch: CallOptions): Write {
  const origin = originOf(batch);
  const key = request.key ?? '';
  if (operationOf(request) === 'delete') {
    return encodeDelete(bucket, key, deleteCheck(request.options?.etag), origin);
  }
  return encodePut(bucket, key, request.value ?? {}, putCheck(optionsOf(request, batch).etag), origin);
}
