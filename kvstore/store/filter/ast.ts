/** A search filter, as Moray's language (LDAP's, RFC 4515, with extensions) has it. */
export type Filter =
  | { readonly type: 'and' | 'or'; readonly filters: readonly Filter[] }
  | { readonly type: 'not'; readonly filter: Filter }
  | Leaf;

export type Leaf = Presence | Comparison | Substring | Extensible;

export interface Presence {
  readonly type: 'present';
  readonly attribute: string;
}

export interface Comparison {
  readonly type: 'equal' | 'ge' | 'le' | 'approx';
  readonly attribute: string;
  readonly value: string;
}

/** `initial*any*any*final`; what is empty matches anything. */
export interface Pattern {
  readonly initial: string;
  readonly any: readonly string[];
  readonly final: string;
}

export interface Substring {
  readonly type: 'substring';
  readonly attribute: string;
  readonly pattern: Pattern;
}

/** `(attribute:rule:=value)`; `pattern` where the value has unescaped asterisks. */
export interface Extensible {
  readonly type: 'ext';
  readonly attribute: string;
  readonly rule: string;
  readonly value: string;
  readonly pattern: Pattern | undefined;
}

export function leavesOf(filter: Filter): Leaf[] {
  switch (filter.type) {
    case 'and':
    case 'or':
      return filter.filters.flatMap(leavesOf);
    case 'not':
      return leavesOf(filter.filter);
    default:
      return [filter];
  }
}

function escaped(value: string): string {
  return value.replace(/[()*\\=]/g, '\\$&');
}

function formatPattern({ initial, any, final }: Pattern): string {
  return [initial, ...any, final].map(escaped).join('*');
}

/** The filter in its own language, canonically escaped. */
export function formatFilter(filter: Filter): string {
  switch (filter.type) {
    case 'and':
      return `(&${filter.filters.map(formatFilter).join('')})`;
    case 'or':
      return `(|${filter.filters.map(formatFilter).join('')})`;
    case 'not':
      return `(!${formatFilter(filter.filter)})`;
    case 'present':
      return `(${filter.attribute}=*)`;
    case 'equal':
      return `(${filter.attribute}=${escaped(filter.value)})`;
    case 'ge':
      return `(${filter.attribute}>=${escaped(filter.value)})`;
    case 'le':
      return `(${filter.attribute}<=${escaped(filter.value)})`;
    case 'approx':
      return `(${filter.attribute}~=${escaped(filter.value)})`;
    case 'substring':
      return `(${filter.attribute}=${formatPattern(filter.pattern)})`;
    case 'ext': {
      const value = filter.pattern === undefined ? escaped(filter.value) : formatPattern(filter.pattern);
      return `(${filter.attribute}:${filter.rule}:=${value})`;
    }
  }
}
