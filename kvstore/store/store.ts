import type pg from 'pg';
import type { Logger } from '../../runtime/log.ts';
import type { Hooks } from '../hooks/hooks.ts';
import type { CallOptions } from './arguments.ts';
import type { BucketBell } from './bucket-bell.ts';
import type { Database } from './database.ts';
import type { GroupCommit } from './group-commit.ts';
import type { GroupRead } from './group-read.ts';
import type { Registry } from './registry.ts';
import { anyObject, type Check, type Origin } from './write.ts';

/** What the calls share. */
export interface Store {
  readonly database: Database;
  readonly registry: Registry;
  readonly bell: BucketBell;
  readonly group: GroupCommit;
  readonly reads: GroupRead;
  readonly hooks: Hooks;
  readonly log: Logger;
}

export function originOf(options: CallOptions): Origin {
  return { requestId: options.req_id ?? null, traceparent: options.traceparent ?? null };
}

/** A put's check: no etag, any object; null, there must be none; else the object must have this one. */
export function putCheck(etag: string | null | undefined): Check {
  if (etag === undefined) return anyObject;
  return etag === null ? { kind: 'none' } : { kind: 'etag', etag };
}

/** A delete's check: only an etag that says something counts. */
export function deleteCheck(etag: string | null | undefined): Check {
  return etag ? { kind: 'etag', etag } : anyObject;
}

/** Limits each further statement of the transaction that `client` is in: Moray's option `timeout`, in milliseconds. */
export async function limitStatements(client: pg.PoolClient, timeoutMs: number): Promise<void> {
  await client.query("SELECT set_config('statement_timeout', $1, true)", [String(timeoutMs)]);
}
