import { isDeepStrictEqual } from 'node:util';
import { type Desired, desiredBucket } from '../../agents/contract/desired.ts';
import type { BatchOp, KvObject } from '../../kvstore/types.ts';

/** The writes that turn the desired objects that are there into those that are wanted; none where they are the same. */
export function desiredWrites(actual: readonly KvObject<Desired>[], wanted: readonly Desired[]): BatchOp[] {
  const left = new Map(actual.map((object) => [object.key, object]));
  const ops: BatchOp[] = [];
  for (const object of wanted) {
    const present = left.get(object.key);
    left.delete(object.key);
    if (present !== undefined && isDeepStrictEqual(present.value, object)) continue;
    ops.push({
      operation: 'put',
      bucket: desiredBucket.name,
      key: object.key,
      value: object,
      etag: present?._etag ?? null,
    });
  }
  for (const { key, _etag } of left.values()) {
    ops.push({ operation: 'delete', bucket: desiredBucket.name, key, etag: _etag });
  }
  return ops;
}
