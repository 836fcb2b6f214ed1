import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { CongerError, isCongerError } from '../../runtime/errors.ts';
import { onPrimaryAlone } from '../position.ts';
import type {
  BatchOp,
  BatchResult,
  FindOptions,
  Found,
  KvObject,
  PositionOptions,
  ReadOptions,
  WriteOptions,
  Written,
} from '../types.ts';
import type { Caller, Settle } from './caller.ts';
import { checkBucketName, checkFilter, checkKey, checkValue } from './checks.ts';

const objectSchema = z.object({
  bucket: z.string(),
  key: z.string(),
  value: z.unknown(),
  _id: z.number(),
  _etag: z.string(),
  _mtime: z.number(),
});
const foundSchema = z.object({
  _snapshot: z.string().nullable(),
  _lsn: z.string().nullable(),
  _count: z.number(),
});
const position = z.string().optional();
const writtenSchema = z.object({ position });
const putSchema = z.object({ etag: z.string(), position });
const batchSchema = z.object({ position, etags: z.array(z.looseObject({ etag: z.string().nullish() })) });

/** Reads and writes of objects, each one call to the KV tier. */
export class Objects {
  readonly #caller: Caller;

  constructor(caller: Caller) {
    this.#caller = caller;
  }

  async get<V>(bucket: string, key: string, options: ReadOptions = {}): Promise<KvObject<V>> {
    checkBucketName(bucket);
    checkKey(key);
    const values = await this.#caller.call({
      rpc: 'getObject',
      args: (callOptions) => [bucket, key, callOptions],
      options: { ...options, noCache: true },
    });
    return answer(objectSchema, values, 'getObject') as KvObject<V>;
  }

  async tryGet<V>(bucket: string, key: string, options?: ReadOptions): Promise<KvObject<V> | undefined> {
    try {
      return await this.get<V>(bucket, key, options);
    } catch (error) {
      if (isCongerError(error, 'ObjectNotFoundError')) return undefined;
      throw error;
    }
  }

  async put(
    bucket: string,
    key: string,
    value: unknown,
    options: WriteOptions = {},
  ): Promise<{ etag: string } & Written> {
    checkBucketName(bucket);
    checkKey(key);
    checkValue(value);
    const values = await this.#caller.call({
      rpc: 'putObject',
      args: (callOptions) => [bucket, key, value, callOptions],
      options: writeOptions(options),
      settle: this.#settle([{ operation: 'put', bucket, key, value }], ([etag]) => ({
        etag,
        ...settledPosition(options),
      })),
    });
    return defined(answer(putSchema, values, 'putObject'));
  }

  async del(
    bucket: string,
    key: string,
    options: PositionOptions & { readonly etag?: string } = {},
  ): Promise<Written> {
    checkBucketName(bucket);
    checkKey(key);
    const values = await this.#caller.call({
      rpc: 'delObject',
      args: (callOptions) => [bucket, key, callOptions],
      options: writeOptions(options),
      settle: this.#settle([{ operation: 'delete', bucket, key }], () => settledPosition(options)),
    });
    return defined(answer(writtenSchema, values, 'delObject'));
  }

  async batch(ops: readonly BatchOp[], options: PositionOptions = {}): Promise<BatchResult> {
    for (const op of ops) {
      checkBucketName(op.bucket);
      checkKey(op.key);
      if (op.operation === 'put') checkValue(op.value);
    }
    if (ops.length === 0) return { etags: [] };
    const requests = ops.map(({ etag, ...op }) => ({ ...op, options: writeOptions({ etag }) }));
    const values = await this.#caller.call({
      rpc: 'batch',
      args: (callOptions) => [requests, callOptions],
      options: writeOptions(options),
      settle: this.#settle(ops, (etags) => ({
        etags: etags.map((etag) => ({ etag })),
        ...settledPosition(options),
      })),
    });
    const { etags, ...written } = answer(batchSchema, values, 'batch');
    return {
      ...defined(written),
      etags: ops.map((op, i) => (op.operation === 'put' ? (etags[i]?.etag ?? null) : null)),
    };
  }

  async find<V>(bucket: string, filter: string, options: FindOptions = {}): Promise<Found<V>> {
    checkBucketName(bucket);
    checkFilter(filter);
    const values = await this.#caller.call({
      rpc: 'findObjects',
      args: (callOptions) => [bucket, filter, callOptions],
      options: { ...options, snapshot: true },
    });
    const last = answer(foundSchema, values.slice(-1), 'findObjects');
    const objects = z.array(objectSchema).safeParse(values.slice(0, -1));
    if (!objects.success) throw badAnswer('findObjects', objects.error);
    return {
      objects: objects.data as KvObject<V>[],
      count: last._count,
      snapshot: last._snapshot ?? '',
      lsn: last._lsn ?? '',
    };
  }

  /**
   * How a write is judged whose first try may have happened, and whose second met a conflict. What is there now tells:
   * all of it as written, then the first try happened. Anything else proves nothing (it may have happened and been
   * overwritten since), except that a value which another object holds cannot have been written here and still stand.
   */
  #settle(ops: readonly BatchOp[], success: (etags: (string | null)[]) => object): Settle {
    return async (conflict) => {
      const unknown = (cause: unknown) =>
        new CongerError(
          'UnknownOutcomeError',
          `the write may or may not have happened: ${conflict.message}`,
          { cause, context: conflict.context },
        );
      const found = await Promise.all(ops.map((op) => this.tryGet(op.bucket, op.key))).catch(
        (error: unknown) => {
          // That it cannot be looked at says nothing of the write.
          throw unknown(error);
        },
      );
      const asWritten = ops.every((op, i) => {
        const current = found[i];
        if (op.operation === 'delete') return current === undefined;
        return current !== undefined && isDeepStrictEqual(current.value, asJson(op.value));
      });
      if (asWritten) return [success(found.map((object) => object?._etag ?? null))];
      if (conflict.code === 'UniqueAttributeError') throw conflict;
      throw unknown(conflict);
    };
  }
}

function writeOptions({
  etag,
  position,
}: PositionOptions & { readonly etag?: string | null | undefined }): Readonly<Record<string, unknown>> {
  return { ...(etag === undefined ? {} : { etag }), ...(position ? { position } : {}) };
}

/** A first try that is seen to have happened has told no position. */
function settledPosition(options: PositionOptions): Written {
  return options.position ? { position: onPrimaryAlone } : {};
}

/** Without a position that is not there. */
function defined<T extends { readonly position?: string | undefined }>({ position, ...rest }: T) {
  return { ...rest, ...(position === undefined ? {} : { position }) };
}

/** The value as it comes back: without undefined fields, dates as text. */
function asJson(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value));
}

function answer<T extends z.ZodType>(schema: T, values: readonly unknown[], rpc: string): z.output<T> {
  const parsed = schema.safeParse(values[0]);
  if (!parsed.success || values.length !== 1) throw badAnswer(rpc, parsed.error);
  return parsed.data;
}

function badAnswer(rpc: string, cause: unknown): CongerError {
  return new CongerError('InternalError', `kvstore's answer to ${rpc} is not what was expected`, { cause });
}
