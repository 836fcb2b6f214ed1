import { CongerError } from '../../runtime/errors.ts';
import type { HookSources } from '../hooks/hooks.ts';
import type { IndexType } from '../types.ts';
import { invalidBucketName } from './errors.ts';
import { fieldNameProblem, isBucketName, tableOf } from './identifiers.ts';
import { type IndexTypeInfo, indexTypeInfo } from './index-types.ts';

/** One indexed field: a column of the bucket's table. */
export interface Column {
  readonly field: string;
  readonly type: IndexType;
  readonly info: IndexTypeInfo;
  readonly unique: boolean;
}

/**
 * A bucket as one generation of its configuration has it. Never changes: a change of configuration makes another
 * generation, which is another Bucket.
 */
export interface Bucket {
  readonly name: string;
  /** PostgreSQL's bigint, in decimal; unique over all buckets and all their updates. */
  readonly generation: string;
  readonly version: number;
  /** The quoted name of the bucket's table. */
  readonly table: string;
  readonly columns: readonly Column[];
  /** Columns by field, without those that are being reindexed: what filters and sorts may rest on. */
  readonly usable: ReadonlyMap<string, Column>;
  /** Fields whose columns are not filled in for every object yet. */
  readonly reindexing: ReadonlySet<string>;
  /** Whether objects of older versions are still to be gone through, be it for no field. */
  readonly tracked: boolean;
  readonly feed: boolean;
  readonly partition: string | undefined;
  /** Whether its objects have a `_txn_snap`, which grows in the order of their commits. */
  readonly ordered: boolean;
  /** Undefined where there are none, which is nearly everywhere. */
  readonly hooks: HookSources | undefined;
}

/** A row of the registry: what getBucket and listBuckets answer, with JSON in the text columns. */
export interface RegistryRow {
  readonly name: string;
  readonly index: string;
  readonly pre: string;
  readonly post: string;
  readonly options: string;
  readonly mtime: Date;
  readonly reindex_active: string | null;
  readonly generation: string;
}

/** A bucket's configuration, as a client sends it and after validation. */
export interface ValidConfig {
  readonly index: Readonly<
    Record<string, { readonly type: IndexType; readonly unique?: boolean | undefined }>
  >;
  readonly hooks: HookSources;
  readonly options: Readonly<Record<string, unknown>> & {
    readonly version: number;
    readonly feed?: boolean | undefined;
    readonly partition?: string | undefined;
    readonly guaranteeOrder?: boolean | undefined;
  };
}

/** Fields being reindexed, by the bucket version that added them. */
export type ReindexActive = Readonly<Record<string, readonly string[]>>;

export function reindexActiveOf(row: Pick<RegistryRow, 'reindex_active'>): ReindexActive {
  return row.reindex_active === null ? {} : (JSON.parse(row.reindex_active) as ReindexActive);
}

export function columnsOf(index: ValidConfig['index']): Column[] {
  return Object.entries(index).map(([field, { type, unique }]) => ({
    field,
    type,
    info: indexTypeInfo(type),
    unique: unique === true,
  }));
}

export function configOf(row: Pick<RegistryRow, 'index' | 'pre' | 'post' | 'options'>): ValidConfig {
  return {
    index: JSON.parse(row.index) as ValidConfig['index'],
    hooks: { pre: JSON.parse(row.pre) as string[], post: JSON.parse(row.post) as string[] },
    options: JSON.parse(row.options) as ValidConfig['options'],
  };
}

export function bucketOf(row: RegistryRow): Bucket {
  const config = configOf(row);
  const columns = columnsOf(config.index);
  const active = reindexActiveOf(row);
  const reindexing = new Set(Object.values(active).flat());
  return {
    name: row.name,
    generation: row.generation,
    version: config.options.version,
    table: tableOf(row.name),
    columns,
    usable: new Map(columns.filter((c) => !reindexing.has(c.field)).map((c) => [c.field, c])),
    reindexing,
    tracked: Object.keys(active).length > 0,
    feed: config.options.feed !== false,
    partition: config.options.partition,
    ordered: config.options.guaranteeOrder === true,
    hooks: config.hooks.pre.length + config.hooks.post.length > 0 ? config.hooks : undefined,
  };
}

/** @throws InvalidBucketNameError, InvalidBucketConfigError */
export function checkBucket(name: string, config: ValidConfig): void {
  if (!isBucketName(name)) throw invalidBucketName(name);
  for (const field of Object.keys(config.index)) {
    const problem = fieldNameProblem(field);
    if (problem !== undefined) throw new CongerError('InvalidBucketConfigError', problem);
  }
}
