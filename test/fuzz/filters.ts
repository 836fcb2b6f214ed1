import { type Bucket, configuredBucket } from '../../kvstore/store/bucket.ts';
import type { Filter, Leaf, Pattern } from '../../kvstore/store/filter/ast.ts';
import { indexTypeInfo, indexTypeNames, type ScalarType } from '../../kvstore/store/index-types.ts';
import type { IndexType } from '../../kvstore/types.ts';
import type { Random } from '../random.ts';

/** A field of every type, by names that show it: `number`, `number_array`. */
export const fields: ReadonlyMap<string, string> = new Map(
  indexTypeNames.map((type) => [type.replace(/^\[(.*)\]$/, '$1_array'), type]),
);

export const bucketConfig = {
  index: Object.fromEntries([...fields].map(([name, type]) => [name, { type: type as IndexType }])),
};

export const bucket: Bucket = configuredBucket('fuzz', bucketConfig.index);

/** Values of each type, those that are equal in two forms and those at the ends among them. */
const values: Readonly<Record<ScalarType, readonly string[]>> = {
  string: [
    '',
    'a',
    'A',
    'ab',
    'aXb',
    'B',
    'é',
    'É',
    '𝄞',
    '\uffee',
    'a*b',
    '(x)',
    '\\',
    '%_',
    "'",
    '"',
    '$1',
    '5',
  ],
  number: ['0', '-1', '5', '5.0', '1e3', '1000', '0.1', '9007199254740993', '-1e300', '1e300', '1e-300'],
  boolean: ['true', 'false', 'TRUE'],
  uuid: ['a1b2c3d4-0000-4000-8000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff'],
  date: [
    '1970-01-01T00:00:00Z',
    '1970-01-01T00:00:00.001Z',
    '2024-02-29T23:59:59.5Z',
    '0001-01-01T00:00:00Z',
  ],
  mac: ['00:00:00:00:00:01', '0-0-0-0-0-1', 'FF:ff:ff:ff:ff:ff', '90:b8:d0:00:00:0a'],
  ip: ['10.0.0.9', '10.0.0.10', '::ffff:10.0.0.9', 'fd00::1', 'FD00:0::1', '::', '255.255.255.255'],
  subnet: ['10.0.0.0/8', '10.1.0.0/16', '10.0.0.0/16', '10.0.0.9/8', 'fd00::/8', '0.0.0.0/0', '::/0'],
  numrange: ['[1,5]', '[1.0,5)', '(,)', '[2,]', '(,3)', '[4,4]', '(4,4)', '[-1,5]'],
  daterange: [
    '[1970-01-01T00:00:00Z,2024-01-01T00:00:00Z]',
    '(,1970-01-01T00:00:00Z)',
    '[1970-01-01T00:00:00Z,]',
    '(,)',
  ],
};

const wrong = ['', 'x', '-', 'NaN', 'null', '\u2028', '1e999', '[5,1]', '99999-01-01T00:00:00Z', '1/33'];

function json(type: ScalarType, text: string): unknown {
  if (type === 'number') return Number(text);
  return type === 'boolean' ? text.toLowerCase() === 'true' : text;
}

/** A value for each field, none for some, null for some. */
export function randomObject(random: Random): Record<string, unknown> {
  const object: Record<string, unknown> = {};
  for (const [name, type] of fields) {
    if (random.below(4) === 0) continue;
    if (random.below(12) === 0) {
      object[name] = null;
      continue;
    }
    const { scalar, array } = indexTypeInfo(type);
    const one = () => json(scalar, random.pick(values[scalar]));
    object[name] = array ? Array.from({ length: random.below(4) }, one) : one();
  }
  object.other = random.pick(['a', 'b', 5, true, null]);
  return object;
}

function randomPattern(random: Random): Pattern {
  const part = () => random.pick(['', '', 'a', 'A', 'b', 'é', '%', '*', '\\', '𝄞']);
  return { initial: part(), any: [part(), part()], final: part() };
}

function randomLeaf(random: Random): Leaf {
  const [attribute, type] = random.pick([
    ...fields,
    ['_id', 'number'],
    ['_key', 'string'],
    ['other', 'string'],
  ]);
  const { scalar, rules } = indexTypeInfo(type);
  const value = random.pick(random.below(20) === 0 ? wrong : values[scalar]);
  const kind = random.below(10);
  if (kind === 0) return { type: 'present', attribute };
  if (kind === 1 && scalar === 'string')
    return { type: 'substring', attribute, pattern: randomPattern(random) };
  if (kind === 2 && scalar === 'string') {
    if (random.below(2) === 0) {
      return { type: 'ext', attribute, rule: 'caseIgnoreMatch', value, pattern: undefined };
    }
    const pattern = randomPattern(random);
    return { type: 'ext', attribute, rule: 'caseIgnoreSubstringsMatch', value, pattern };
  }
  if (kind === 3) {
    const [rule, operator] = random.pick([...Object.entries(rules), ['within', undefined] as const]);
    const operand = random.pick(values[operator?.operand ?? 'number']);
    return { type: 'ext', attribute, rule, value: operand, pattern: undefined };
  }
  return { type: random.pick(['equal', 'equal', 'ge', 'le'] as const), attribute, value };
}

/** A filter over all fields; most of them suit their fields' types. */
export function randomFilter(random: Random, depth = 3): Filter {
  const kind = depth === 0 ? 9 : random.below(10);
  if (kind > 3) return randomLeaf(random);
  if (kind === 3) return { type: 'not', filter: randomFilter(random, depth - 1) };
  const filters = Array.from({ length: 1 + random.below(3) }, () => randomFilter(random, depth - 1));
  return { type: kind === 2 ? 'or' : 'and', filters };
}
