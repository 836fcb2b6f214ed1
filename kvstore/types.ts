/**
 * The KV tier's words, as Moray has them: buckets of objects, typed indexes, etags, LDAP filters.
 * Everything outside kvstore/ uses the tier through `Kv` (made by client.ts), and through nothing else.
 */

export type IndexType =
  | 'string'
  | 'number'
  | 'boolean'
  | 'uuid'
  | 'date'
  | 'mac'
  | 'ip'
  | 'subnet'
  | 'numrange'
  | 'daterange'
  | `[${'string' | 'number' | 'boolean' | 'uuid' | 'date' | 'mac' | 'ip' | 'subnet' | 'numrange' | 'daterange'}]`;

export interface IndexDefinition {
  readonly type: IndexType;
  readonly unique?: boolean;
}

export interface BucketOptions {
  /** Moray's bucket version: an update with a lower one is refused. */
  readonly version?: number;
  /**
   * The field of the value that this bucket's changes are ordered by (the partition key). Absent, or where the value
   * does not have it: the object's key.
   */
  readonly partition?: string;
  /** false: changes of this bucket are not in the changefeed (checkpoints and the like). */
  readonly feed?: boolean;
}

export interface BucketConfig {
  readonly index: Readonly<Record<string, IndexDefinition>>;
  /** Names of hooks that the servers have registered: those that run before a put, and after a put or delete. */
  readonly pre?: readonly string[];
  readonly post?: readonly string[];
  readonly options?: BucketOptions;
}

/** How far a bucket's reindexing is. */
export interface Reindexed {
  readonly bucket: string;
  /** Objects that this call has reindexed so far; other callers may help. */
  readonly processed: number;
  /** Objects that are left: exact below a thousand, else an estimate. */
  readonly remaining: number;
}

export type OnReindexed = (progress: Reindexed) => void;

/** An object as it is read. `_mtime` is in milliseconds since 1970; `_etag` changes with every different value. */
export interface KvObject<V> {
  readonly bucket: string;
  readonly key: string;
  readonly value: V;
  readonly _id: number;
  readonly _etag: string;
  readonly _mtime: number;
}

export interface PositionOptions {
  /** Answer the write's position, for reads from standbys that are to see it; costs a statement. */
  readonly position?: boolean;
}

/** What a write answers about itself. */
export interface Written {
  /**
   * Where `position` was asked for: a place in PostgreSQL's WAL (`X/Y`). A read with it as `minPosition` sees this write
   * and all that were acknowledged before it. It means nothing to a PostgreSQL that is restored or replaced.
   */
  readonly position?: string;
}

export interface WriteOptions extends PositionOptions {
  /** Write only if the object has this etag; null: only if there is no such object. Absent: in any case. */
  readonly etag?: string | null;
}

export interface ReadOptions {
  /**
   * Let a standby of PostgreSQL answer, which may lag behind; the primary answers where no standby does. Absent: the
   * primary, which has everything that was acknowledged.
   */
  readonly standby?: boolean;
  /** With `standby`: the least position that the read must see. The standby has a second to get there. */
  readonly minPosition?: string;
}

export interface FindOptions extends ReadOptions {
  readonly limit?: number;
  readonly offset?: number;
  readonly sort?:
    | { readonly attribute: string; readonly order: 'ASC' | 'DESC' }
    | readonly { readonly attribute: string; readonly order: 'ASC' | 'DESC' }[];
  /** Without a limit, all that match (Moray's default is 1000). */
  readonly noLimit?: boolean;
  /** Fields of the filter that must have a usable index. */
  readonly requireIndexes?: boolean;
}

/** What a find saw. */
export interface Found<V> {
  readonly objects: readonly KvObject<V>[];
  /** How many match without limit and offset. */
  readonly count: number;
  /**
   * The PostgreSQL snapshot that the read was made in (`xmin:xmax:xip,...`); tells which changes are in it. Empty where
   * the read was for a standby, of which PostgreSQL cannot say it.
   */
  readonly snapshot: string;
  /** A WAL position (`X/Y`) at or after every commit that the read saw; empty where `snapshot` is. */
  readonly lsn: string;
}

/** One operation of a batch; a batch happens whole or not at all. */
export type BatchOp =
  | {
      readonly operation: 'put';
      readonly bucket: string;
      readonly key: string;
      readonly value: unknown;
      readonly etag?: string | null;
    }
  | { readonly operation: 'delete'; readonly bucket: string; readonly key: string; readonly etag?: string };

export interface BatchResult extends Written {
  /** One etag an operation, null for a delete. */
  readonly etags: readonly (string | null)[];
}

/**
 * The KV tier.
 *
 * A write is retried on another server when a connection breaks, and is safe to: where an etag was given and the
 * retry meets a conflict with exactly the value that was being written, the first try had succeeded. A write whose
 * outcome stays unknown fails with UnknownOutcomeError, never silently: the object was overwritten since, and whether
 * by a writer that had seen this write only its value can tell, or a later try failed in a way that says nothing of the
 * first. For the same reason two writers that contend for an object with an etag must not write equal values (a bare
 * counter): put into the value who writes. Without an etag both tries may be made, the first one late.
 *
 * Errors are CongerErrors with Moray's names (BucketNotFoundError, ObjectNotFoundError, EtagConflictError,
 * UniqueAttributeError, InvalidQueryError, ...). The request id in force (runtime/trace.ts) travels with each call
 * into the change that it causes.
 */
export interface Kv {
  /**
   * Creates the bucket, or brings an older version up to this one. Its indexes hold every object when this resolves;
   * `onReindexed` is told after each part that had to be reindexed for it.
   * @throws UniqueAttributeError where an index cannot be unique: the bucket then stays as it was
   */
  ensureBucket(name: string, config: BucketConfig, onReindexed?: OnReindexed): Promise<void>;
  /** @throws ObjectNotFoundError */
  get<V>(bucket: string, key: string, options?: ReadOptions): Promise<KvObject<V>>;
  /** The object, or undefined where there is none. */
  tryGet<V>(bucket: string, key: string, options?: ReadOptions): Promise<KvObject<V> | undefined>;
  /** @throws EtagConflictError, UniqueAttributeError */
  put(
    bucket: string,
    key: string,
    value: unknown,
    options?: WriteOptions,
  ): Promise<{ etag: string } & Written>;
  /** @throws ObjectNotFoundError, EtagConflictError */
  del(bucket: string, key: string, options?: PositionOptions & { readonly etag?: string }): Promise<Written>;
  /** Up to `limit` (1000) objects that match an LDAP filter. */
  find<V>(bucket: string, filter: string, options?: FindOptions): Promise<Found<V>>;
  batch(ops: readonly BatchOp[], options?: PositionOptions): Promise<BatchResult>;
  ping(): Promise<void>;
  close(): Promise<void>;
}
