import { createHash } from 'node:crypto';

/** The UUID that `parts` always give: what a request creates has the same name when the request is repeated. */
export function derivedUuid(...parts: readonly string[]): string {
  const hex = createHash('sha1').update(parts.join('\0')).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
