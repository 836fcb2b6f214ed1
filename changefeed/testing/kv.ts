import { objectFilter } from '../../kvstore/filter.ts';
import type {
  BatchOp,
  BatchResult,
  BucketConfig,
  FindOptions,
  Found,
  Kv,
  KvObject,
  WriteOptions,
  Written,
} from '../../kvstore/types.ts';
import { CongerError } from '../../runtime/errors.ts';

/**
 * A KV tier in memory, for tests of races: objects, etags and batches that happen whole or not at all. `before` runs
 * ahead of every batch, `after` behind it, and may throw as a broken connection would.
 */
export class TestKv implements Kv {
  readonly objects = new Map<string, KvObject<unknown>>();
  batches = 0;
  before: (() => Promise<void>) | undefined;
  after: (() => void) | undefined;
  #id = 0;

  readonly #indexes = new Map<string, BucketConfig['index']>();

  async ensureBucket(name: string, { index }: BucketConfig): Promise<void> {
    this.#indexes.set(name, index);
  }

  async get<V>(bucket: string, key: string): Promise<KvObject<V>> {
    const found = await this.tryGet<V>(bucket, key);
    if (found === undefined) throw new CongerError('ObjectNotFoundError', `${bucket}/${key}`);
    return found;
  }

  async tryGet<V>(bucket: string, key: string): Promise<KvObject<V> | undefined> {
    return this.objects.get(`${bucket}/${key}`) as KvObject<V> | undefined;
  }

  async put(
    bucket: string,
    key: string,
    value: unknown,
    options: WriteOptions = {},
  ): Promise<{ etag: string }> {
    const op: BatchOp = { operation: 'put', bucket, key, value, ...options };
    this.#check(op);
    return { etag: this.#apply(op) ?? '' };
  }

  async del(bucket: string, key: string): Promise<Written> {
    this.objects.delete(`${bucket}/${key}`);
    return {};
  }

  /** Of a bucket that was ensured what matches, sorted by `sort`; of others everything. */
  async find<V>(bucket: string, filter = '', { sort, limit }: FindOptions = {}): Promise<Found<V>> {
    const index = this.#indexes.get(bucket);
    const wanted = index === undefined ? undefined : objectFilter(bucket, index, filter);
    const all = [...this.objects.values()].filter(
      (o) => o.bucket === bucket && (wanted?.matches(o.key, o.value) ?? true),
    ) as KvObject<V>[];
    const attribute = sort !== undefined && 'attribute' in sort ? sort.attribute : undefined;
    const by = ({ value }: KvObject<V>) =>
      String((value as Readonly<Record<string, unknown>>)[attribute ?? '']);
    if (attribute !== undefined) all.sort((a, b) => (by(a) < by(b) ? -1 : 1));
    return { objects: all.slice(0, limit), count: all.length, snapshot: '1:1:', lsn: '0/0' };
  }

  async batch(ops: readonly BatchOp[]): Promise<BatchResult> {
    await this.before?.();
    for (const op of ops) this.#check(op);
    const etags = ops.map((op) => this.#apply(op));
    this.batches++;
    this.after?.();
    return { etags };
  }

  async ping(): Promise<void> {}
  async close(): Promise<void> {}

  #check(op: BatchOp): void {
    if (op.etag === undefined) return;
    const now = this.objects.get(`${op.bucket}/${op.key}`)?._etag ?? null;
    if (now !== op.etag) throw new CongerError('EtagConflictError', `${op.bucket}/${op.key}`);
  }

  #apply(op: BatchOp): string | null {
    const { bucket, key } = op;
    if (op.operation === 'delete') {
      this.objects.delete(`${bucket}/${key}`);
      return null;
    }
    const _etag = `e${++this.#id}`;
    const value: unknown = JSON.parse(JSON.stringify(op.value));
    this.objects.set(`${bucket}/${key}`, { bucket, key, value, _id: this.#id, _etag, _mtime: Date.now() });
    return _etag;
  }
}
