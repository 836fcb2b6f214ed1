/**
 * Says of nearly all arguments that come that they are valid, for a fraction of what their schema (arguments.ts) costs.
 * Yes means that the schema would pass the value on as it is. No means nothing: the schema decides, and says what is
 * wrong. Every field that the schema knows has to be here too; the test of this promise finds what is not.
 */
type Quick = (value: unknown) => boolean;

const isBoolean: Quick = (value) => typeof value === 'boolean';
const isString: Quick = (value) => typeof value === 'string';
const isNatural: Quick = (value) => Number.isSafeInteger(value) && (value as number) >= 0;
const isEtag: Quick = (value) => value === null || typeof value === 'string';
const leaveToSchema: Quick = () => false;

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Fields that a schema knows; it takes any others as they are. */
type Fields = ReadonlyMap<string, Quick>;

function fieldsFit(value: unknown, fields: Fields): boolean {
  if (!isObject(value)) return false;
  for (const name in value) {
    const check = fields.get(name);
    if (check !== undefined && !check(value[name])) return false;
  }
  return true;
}

const optionFields: Fields = new Map<string, Quick>([
  ['req_id', (value) => typeof value === 'string' && uuid.test(value)],
  ['traceparent', (value) => typeof value === 'string' && value.length <= 64],
  ['etag', isEtag],
  ['_etag', isEtag],
  ['headers', isObject],
  ['timeout', (value) => isNatural(value) && (value as number) < 2 ** 31],
  ['limit', isNatural],
  ['offset', isNatural],
  ['noBucketCache', isBoolean],
  ['noLimit', isBoolean],
  ['no_count', isBoolean],
  ['sql_only', isBoolean],
  ['requireIndexes', isBoolean],
  ['requireOnlineReindexing', isBoolean],
  ['no_reindex', isBoolean],
  ['deep', isBoolean],
  ['snapshot', isBoolean],
  ['standby', isBoolean],
  ['position', isBoolean],
  ['minPosition', leaveToSchema],
  ['sort', leaveToSchema],
  ['internalOpts', leaveToSchema],
]);

const operations = new Set<unknown>(['put', 'delete', 'update', 'deleteMany']);

const requestFields: Fields = new Map<string, Quick>([
  ['operation', (value) => operations.has(value)],
  ['bucket', isString],
  ['key', isString],
  ['filter', isString],
  ['fields', isObject],
  ['value', isObject],
  ['options', (value) => fieldsFit(value, optionFields)],
]);

export const quick = {
  string: (value) => typeof value === 'string' && value !== '',
  integer: isNatural,
  object: isObject,
  array: Array.isArray,
  options: (value) => fieldsFit(value, optionFields),
  requests: (value) =>
    Array.isArray(value) && value.every((each) => fieldsFit(each, requestFields) && isString(each.bucket)),
} satisfies Record<string, Quick>;
