import { z } from 'zod';
import { messageOf } from '../runtime/errors.ts';
import type { Change, LogRecord } from './types.ts';

/** The newest version of a change's body that this process reads. */
export const CHANGE_VERSION = 1;

const version = z.looseObject({ v: z.number().int().positive() });

const ofBucket = z.looseObject({ bucket: z.string() });

const bodySchema = z.object({
  v: z.literal(CHANGE_VERSION),
  bucket: z.string().min(1),
  key: z.string(),
  op: z.enum(['put', 'delete']),
  etag: z.string().nullable(),
  request_id: z.string().nullable(),
  traceparent: z.string().nullable(),
  value: z.unknown(),
  previous: z.unknown(),
});

/** A record whose body is no change that this process understands. */
export class UnreadableChangeError extends Error {
  readonly position: string;
  /** Its version is one that this process does not know yet. */
  readonly newer: boolean;
  /** The bucket that it is of, where that much can be read. */
  readonly bucket: string | undefined;

  constructor(record: LogRecord, why: string, { newer = false, bucket, cause }: UnreadableDetail = {}) {
    super(`change at ${record.position}: ${why}`, cause === undefined ? undefined : { cause });
    this.name = 'UnreadableChangeError';
    this.position = record.position;
    this.newer = newer;
    this.bucket = bucket;
  }
}

interface UnreadableDetail {
  readonly newer?: boolean;
  readonly bucket?: string | undefined;
  readonly cause?: unknown;
}

/**
 * The change in a record of the log. Fields that a newer version added are ignored; a body whose version is newer is
 * not guessed at.
 * @throws UnreadableChangeError
 */
export function parseChange<V = unknown>(record: LogRecord): Change<V> {
  let json: unknown;
  try {
    json = JSON.parse(record.body.toString('utf8'));
  } catch (error) {
    throw new UnreadableChangeError(record, `not JSON: ${messageOf(error)}`, { cause: error });
  }
  const parsed = bodySchema.safeParse(json);
  if (!parsed.success) {
    const given = version.safeParse(json);
    if (given.success && given.data.v > CHANGE_VERSION) {
      throw new UnreadableChangeError(
        record,
        `its schema is version ${given.data.v}, and this process reads up to ${CHANGE_VERSION}`,
        { newer: true },
      );
    }
    const bucket = ofBucket.safeParse(json).data?.bucket;
    throw new UnreadableChangeError(record, z.prettifyError(parsed.error), { bucket, cause: parsed.error });
  }
  const body = parsed.data;
  return {
    v: 1,
    position: record.position,
    partition: record.partition,
    xid: record.xid,
    index: record.index,
    count: record.count,
    time: record.time,
    partitionKey: record.partitionKey,
    bucket: body.bucket,
    key: body.key,
    op: body.op,
    etag: body.etag,
    value: (body.value ?? null) as V | null,
    previous: (body.previous ?? null) as V | null,
    requestId: body.request_id,
    traceparent: body.traceparent,
  };
}

/** The partition of the log that changes with this partition key are in: FNV-1a (32 bits) of its UTF-8, modulo. */
export function partitionOf(partitionKey: string, partitions: number): number {
  return fnv1a32(partitionKey) % partitions;
}

export function fnv1a32(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    // A character is its own UTF-8 as long as it is one of ASCII.
    if (unit > 0x7f) return fnv1a32OfBytes(Buffer.from(text, 'utf8'));
    hash = Math.imul(hash ^ unit, 0x01000193);
  }
  return hash >>> 0;
}

function fnv1a32OfBytes(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}
