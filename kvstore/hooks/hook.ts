import type { Logger } from '../../runtime/log.ts';

/** PostgreSQL as a hook has it: the connection of the transaction that its write is in. */
export interface HookDatabase {
  /** Rows by column name. Rejects with PostgreSQL's error, after which the transaction can only be rolled back. */
  query(text: string, values?: readonly unknown[]): Promise<readonly Record<string, unknown>[]>;
}

/** What a hook is called with. A pre hook may change or replace `key` and `value`: what it leaves is written. */
export interface HookRequest {
  readonly bucket: string;
  key: string;
  /** After a delete: undefined. */
  value: Record<string, unknown> | undefined;
  /** The object's `_id`; not there in a pre hook. */
  readonly id?: number;
  /** The etag that was written, null after a delete; not there in a pre hook. */
  readonly etag?: string | null;
  /** The index configuration of the bucket, by field. */
  readonly schema: Readonly<Record<string, unknown>>;
  /** The option `headers` of the call. */
  readonly headers: Readonly<Record<string, unknown>>;
  readonly log: Logger;
  /** Whether a put replaces an object that is there. */
  readonly update: boolean;
  readonly pg: HookDatabase;
}

/**
 * Code of a bucket that runs before a put (`pre`) or after a put or delete (`post`). Where it rejects, nothing is
 * written, and the client gets its error by name and message. It may be run again for one write, where that lost a
 * race and is made again.
 */
export type Hook = (request: HookRequest) => Promise<void> | void;

/** A hook with the name that errors and logs call it by. */
export interface NamedHook {
  readonly name: string;
  readonly run: Hook;
}

/** A bucket's hooks, in the order in which they run. */
export interface HookChains {
  readonly pre: readonly NamedHook[];
  readonly post: readonly NamedHook[];
}

export const identifier = /^[A-Za-z_$][\w$]*$/;
const functionText = /^\s*(?:async\s+)?function\s*\*?\s*([A-Za-z_$][\w$]*)\s*\(/;

/** The name in a bucket's `pre` or `post`: the bare name, or that of a function's source text. */
export function nameIn(source: string): string | undefined {
  const bare = source.trim();
  return identifier.test(bare) ? bare : functionText.exec(source)?.[1];
}

/** What errors call a hook: its name, or how its text begins. */
export function labelOf(source: string): string {
  return nameIn(source) ?? source.trim().replace(/\s+/g, ' ').slice(0, 40);
}
