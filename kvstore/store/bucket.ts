import { CongerError } from '../../runtime/errors.ts';
import type { HookSources } from '../hooks/hooks.ts';
import type { IndexType } from '../types.ts';
import { invalidBucketName } from './errors.ts';
import {
  changesTable,
  fieldNameProblem,
  isBucketName,
  partOf,
  registryTable,
  schemaName,
  tableOf,
} from './identifiers.ts';
import { type IndexTypeInfo, indexTypeInfo } from './index-types.ts';

/** One indexed field: a column of the bucket's table. */
export interface Column {
  readonly field: string;
  /** The column's name in PostgreSQL: the field's, but while it is pending. */
  readonly name: string;
  readonly type: IndexType;
  readonly info: IndexTypeInfo;
  readonly unique: boolean;
  /** Of the configuration that the bucket is changing to: to be filled in, as far as a value fits, and not to be used. */
  readonly pending: boolean;
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
  /** What a write fills in: where a field is changing its type, two columns, the pending one last. */
  readonly columns: readonly Column[];
  /** Columns by field, without those that are pending or being reindexed: what filters may rest on. */
  readonly usable: ReadonlyMap<string, Column>;
  /** Fields that are indexed, but whose columns are not filled in for every object yet. */
  readonly reindexing: ReadonlySet<string>;
  /** Whether objects of older versions are still to be gone through, be it for no field. */
  readonly tracked: boolean;
  readonly feed: boolean;
  readonly partition: string | undefined;
  /** Whether its objects have a `_txn_snap`, which grows in the order of their commits. */
  readonly ordered: boolean;
  /**
   * Whether there is a column `_idx`, which has the ids of the objects whose `_id` is NULL: the way of Moray's operators
   * out of 32-bit ids, which buckets made by old Morays have.
   */
  readonly extendedId: boolean;
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
  /** The change that is under way, and how the last one ended. */
  readonly change: string | null;
  readonly ended: string | null;
  /** Whether the table has the column `_idx`. */
  readonly extended: boolean;
}

/** Answers RegistryRows. Names its columns: it is prepared, and a later version may add some. */
export const registrySelect = `
  SELECT r.name, r.index, r.pre, r.post, r.options, r.mtime, r.reindex_active, r.generation, c.change, c.ended,
    EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('${schemaName}.' || quote_ident(r.name))
      AND attname = '_idx' AND NOT attisdropped) AS extended
  FROM ${registryTable} r LEFT JOIN ${changesTable} c ON c.name = r.name`;

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

/** A change to another configuration that is under way. */
export interface BucketChange {
  /** The generation that the bucket has during the change. */
  readonly id: string;
  readonly config: ValidConfig;
  readonly noReindex: boolean;
}

/** Why a change was given up: PostgreSQL's error when it built the field's index. */
export interface ChangeFailure {
  /** SQLSTATE */
  readonly state: string;
  readonly message: string;
  readonly field: string;
  /** The value that is there twice. */
  readonly value?: string;
}

export interface EndedChange {
  readonly id: string;
  /** Absent: it was completed. */
  readonly failure?: ChangeFailure;
}

export function changeOf(row: Pick<RegistryRow, 'change'>): BucketChange | undefined {
  return row.change === null ? undefined : (JSON.parse(row.change) as BucketChange);
}

export function endedChangeOf(row: Pick<RegistryRow, 'ended'>): EndedChange | undefined {
  return row.ended === null ? undefined : (JSON.parse(row.ended) as EndedChange);
}

/** Fields being reindexed, by the bucket version that added them. */
export type ReindexActive = Readonly<Record<string, readonly string[]>>;

export function reindexActiveOf(row: Pick<RegistryRow, 'reindex_active'>): ReindexActive {
  return row.reindex_active === null ? {} : (JSON.parse(row.reindex_active) as ReindexActive);
}

export function columnsOf(index: ValidConfig['index']): Column[] {
  return Object.entries(index).map(([field, { type, unique }]) => ({
    field,
    name: field,
    type,
    info: indexTypeInfo(type),
    unique: unique === true,
    pending: false,
  }));
}

/** Whether one column serves both; it may still have to have other indexes. */
export function sameColumn(a: Column, b: Column): boolean {
  return a.field === b.field && a.type === b.type;
}

/** The columns that `after` has and `before` has not. The dot keeps their names apart from all fields'. */
export function pendingColumns(before: ValidConfig, after: ValidConfig): Column[] {
  const there = columnsOf(before.index);
  return columnsOf(after.index)
    .filter((column) => !there.some((c) => sameColumn(c, column)))
    .map((column) => ({ ...column, name: partOf(column.field, 'next'), pending: true }));
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
  const change = changeOf(row);
  const own = columnsOf(config.index);
  const pending = change === undefined ? [] : pendingColumns(config, change.config);
  const active = reindexActiveOf(row);
  const coming = pending.map((c) => c.field).filter((field) => !own.some((c) => c.field === field));
  const reindexing = new Set([...Object.values(active).flat(), ...coming]);
  return {
    name: row.name,
    generation: row.generation,
    version: config.options.version,
    table: tableOf(row.name),
    columns: [...own, ...pending],
    usable: new Map(own.filter((c) => !reindexing.has(c.field)).map((c) => [c.field, c])),
    reindexing,
    tracked: Object.keys(active).length > 0,
    feed: config.options.feed !== false,
    partition: config.options.partition,
    extendedId: row.extended,
    ordered: config.options.guaranteeOrder === true,
    hooks: config.hooks.pre.length + config.hooks.post.length > 0 ? config.hooks : undefined,
  };
}

/** The bucket as the store has it once all of its indexes are filled in. */
export function configuredBucket(name: string, index: ValidConfig['index']): Bucket {
  return bucketOf({
    name,
    index: JSON.stringify(index),
    pre: '[]',
    post: '[]',
    options: '{"version":0}',
    mtime: new Date(0),
    reindex_active: null,
    generation: '1',
    change: null,
    ended: null,
    extended: false,
  });
}

/** SQL of an object's id. */
export function idOf(bucket: Bucket): string {
  return bucket.extendedId ? 'coalesce(_id, _idx)' : '_id';
}

/** @throws InvalidBucketNameError, InvalidBucketConfigError */
export function checkBucket(name: string, config: ValidConfig): void {
  if (!isBucketName(name)) throw invalidBucketName(name);
  for (const field of Object.keys(config.index)) {
    const problem = fieldNameProblem(field);
    if (problem !== undefined) throw new CongerError('InvalidBucketConfigError', problem);
  }
}
