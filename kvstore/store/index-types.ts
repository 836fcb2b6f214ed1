import type { IndexType } from '../types.ts';

export type ScalarType = Exclude<IndexType, `[${string}]`>;

/** What a range operator takes on its other side, and PostgreSQL's operator with that side on the left. */
export interface RangeOperator {
  readonly operand: ScalarType;
  readonly operator: string;
}

export type RangeRule = 'overlaps' | 'contains' | 'within';

export interface IndexTypeInfo {
  readonly array: boolean;
  /** The type of one element. */
  readonly scalar: ScalarType;
  /** PostgreSQL's name of the type, for casts. */
  readonly pg: string;
  /** The same with its collation, for a column. Strings compare by code point whatever the database's locale. */
  readonly column: string;
  readonly method: 'btree' | 'gin' | 'gist';
  readonly rules: Readonly<Partial<Record<RangeRule, RangeOperator>>>;
}

interface ScalarInfo {
  readonly pg: string;
  readonly gist?: true;
  readonly rules?: IndexTypeInfo['rules'];
}

const scalars: Readonly<Record<ScalarType, ScalarInfo>> = {
  string: { pg: 'text' },
  number: { pg: 'numeric', rules: { within: { operand: 'numrange', operator: '@>' } } },
  boolean: { pg: 'boolean' },
  uuid: { pg: 'uuid' },
  date: { pg: 'timestamptz', rules: { within: { operand: 'daterange', operator: '@>' } } },
  mac: { pg: 'macaddr' },
  ip: { pg: 'inet', rules: { within: { operand: 'subnet', operator: '>>' } } },
  subnet: { pg: 'cidr', rules: { contains: { operand: 'ip', operator: '<<' } } },
  numrange: {
    pg: 'numrange',
    gist: true,
    rules: {
      overlaps: { operand: 'numrange', operator: '&&' },
      contains: { operand: 'number', operator: '<@' },
    },
  },
  daterange: {
    pg: 'tstzrange',
    gist: true,
    rules: {
      overlaps: { operand: 'daterange', operator: '&&' },
      contains: { operand: 'date', operator: '<@' },
    },
  },
};

function build(): ReadonlyMap<string, IndexTypeInfo> {
  const all = new Map<string, IndexTypeInfo>();
  for (const [name, info] of Object.entries(scalars)) {
    const scalar = name as ScalarType;
    const rules = info.rules ?? {};
    const collation = scalar === 'string' ? ' COLLATE "C"' : '';
    const method = info.gist ? 'gist' : 'btree';
    all.set(name, { array: false, scalar, pg: info.pg, column: info.pg + collation, method, rules });
    const pg = `${info.pg}[]`;
    all.set(`[${name}]`, { array: true, scalar, pg, column: pg + collation, method: 'gin', rules });
  }
  return all;
}

const types = build();

/** Moray's names of the types that a field can be indexed as. */
export const indexTypeNames: readonly string[] = [...types.keys()];

export function indexTypeInfo(type: string): IndexTypeInfo {
  const info = types.get(type);
  if (info === undefined) throw new Error(`${type} is not an index type`);
  return info;
}

/** PostgreSQL's name of a scalar type. */
export function scalarPg(type: ScalarType): string {
  return scalars[type].pg;
}
