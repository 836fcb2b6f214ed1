import { createRequire } from 'node:module';
import { LRUCache } from 'lru-cache';
import type { FieldError } from '../../../runtime/errors.ts';
import { validationError, validationStyles } from '../../common/http.ts';
import type { BucketDefinition } from '../../common/records.ts';

/** One side of a rule, as the npm package `fwrule` parses it. */
export interface RuleSide {
  /** `any` or `vmall`. */
  readonly wildcards: readonly string[];
  readonly ips: readonly string[];
  readonly subnets: readonly string[];
  /** A tag's name (any value), or its name and value. */
  readonly tags: readonly (string | readonly [string, string])[];
  readonly vms: readonly string[];
}

type Port = number | 'all' | { readonly start: number; readonly end: number };

export interface ParsedRule {
  readonly uuid: string;
  readonly version: string;
  readonly owner_uuid?: string;
  readonly description?: string;
  readonly enabled: boolean;
  readonly log: boolean;
  readonly action: 'allow' | 'block';
  readonly priority: number;
  readonly protocol: 'tcp' | 'udp' | 'icmp' | 'icmp6' | 'ah' | 'esp';
  /** tcp, udp: numbers, ranges or `all`. */
  readonly ports?: readonly Port[];
  /** icmp, icmp6: `type`, `type:code` or `all`. */
  readonly types?: readonly string[];
  readonly from: RuleSide;
  readonly to: RuleSide;
  readonly allVMs: boolean;
  readonly tags: readonly (string | readonly [string, string])[];
  readonly vms: readonly string[];
  serialize(): RuleObject;
  text(): string;
}

/** A rule as FWAPI's clients see it. */
export interface RuleObject {
  uuid: string;
  version: string;
  rule: string;
  enabled: boolean;
  log: boolean;
  owner_uuid?: string;
  global?: boolean;
  description?: string;
  created_by?: string;
}

interface FwruleError extends Error {
  readonly field?: string;
  readonly ase_errors?: readonly FwruleError[];
}

const fwrule = createRequire(import.meta.url)('fwrule') as {
  create(data: object, options: object): ParsedRule;
  generateVersion(): string;
};

/** Rules as they are stored: Triton's indexes, and the rule's text to read it back from. Key = uuid. Ordered by owner. */
export const rulesBucket: BucketDefinition = {
  name: 'fwapi_rules',
  config: {
    index: {
      uuid: { type: 'string', unique: true },
      _v: { type: 'number' },
      version: { type: 'string' },
      description: { type: 'string' },
      owner: { type: 'string' },
      action: { type: 'string' },
      protocol: { type: 'string' },
      enabled: { type: 'boolean' },
      log: { type: 'boolean' },
      fromwildcards: { type: '[string]' },
      towildcards: { type: '[string]' },
      fromips: { type: '[ip]' },
      toips: { type: '[ip]' },
      fromsubnets: { type: '[subnet]' },
      tosubnets: { type: '[subnet]' },
      fromtagkeys: { type: '[string]' },
      totagkeys: { type: '[string]' },
      fromtags: { type: '[string]' },
      totags: { type: '[string]' },
      fromvms: { type: '[string]' },
      tovms: { type: '[string]' },
    },
    options: { version: 3, partition: 'owner' },
  },
};

/** A stored rule. The index fields are Triton's and are derived from `rule`, the text. */
export interface RuleRecord {
  readonly uuid: string;
  readonly version: string;
  readonly rule: string;
  readonly enabled: boolean;
  readonly log: boolean;
  readonly owner?: string;
  readonly description?: string;
  readonly created_by?: string;
  /** The request that made this version; a repeat of it is answered as the first time. */
  readonly request_key?: string;
  readonly [index: string]: unknown;
}

/**
 * Parses a rule with its attributes as a client gives them.
 * @throws InvalidParameters (422) naming each field, as FWAPI does.
 */
export function parseRule(data: Readonly<Record<string, unknown>>): ParsedRule {
  try {
    const rule = fwrule.create(data, { maxVersion: 4, enforceSubnetMask: true, enforceGlobal: true });
    // A range of all ports is `all`, as in Triton.
    if (rule.ports?.some(isEveryPort)) Object.assign(rule, { ports: ['all'], protoTargets: ['all'] });
    return rule;
  } catch (thrown) {
    const error = thrown as FwruleError;
    const errors: FieldError[] = (error.ase_errors ?? [error]).map(({ field = 'rule', message }) => ({
      field,
      code: 'InvalidParameter',
      message,
    }));
    throw validationError(validationStyles.fwapi, errors);
  }
}

function isEveryPort(port: Port): boolean {
  return port === 'all' || (typeof port === 'object' && port.start === 1 && port.end === 65535);
}

/** A new version of a rule, in Triton's form `<ms>.<six digits>`. */
export function nextVersion(): string {
  return fwrule.generateVersion();
}

/** Parsing costs a third of a millisecond, and every change of an owner needs all of its rules. */
const parsed = new LRUCache<string, ParsedRule>({ max: 20_000 });

/** The rule that a record holds; not to be changed. */
export function ruleOfRecord(record: RuleRecord): ParsedRule {
  const { uuid, version, rule: text, enabled, log, owner, description } = record;
  const key = JSON.stringify([uuid, version, text, enabled, log, owner, description]);
  const known = parsed.get(key);
  if (known !== undefined) return known;
  const rule = parseRule({
    uuid,
    version,
    rule: text,
    enabled,
    log,
    ...(owner === undefined ? { global: true } : { owner_uuid: owner }),
    ...(description === undefined ? {} : { description }),
  });
  parsed.set(key, rule);
  return rule;
}

export function recordOfRule(
  rule: ParsedRule,
  extra: { created_by?: string; request_key?: string },
): RuleRecord {
  const indexes: Record<string, unknown> = {};
  for (const direction of ['from', 'to'] as const) {
    const side = rule[direction];
    const tagKeys = new Set<string>();
    const tags = side.tags.map((tag) => {
      const [key, value] = typeof tag === 'string' ? [tag, ''] : tag;
      tagKeys.add(key);
      return storedTag(key, value);
    });
    for (const [name, values] of Object.entries({
      wildcards: side.wildcards,
      ips: side.ips,
      subnets: side.subnets,
      tags,
      tagkeys: [...tagKeys],
      vms: side.vms,
    })) {
      if (values.length > 0) indexes[`${direction}${name}`] = values;
    }
  }
  return {
    uuid: rule.uuid,
    version: rule.version,
    rule: rule.text(),
    enabled: rule.enabled,
    log: rule.log,
    action: rule.action,
    priority: rule.priority,
    protocol: rule.protocol,
    ...(rule.owner_uuid === undefined ? {} : { owner: rule.owner_uuid }),
    ...(rule.description === undefined ? {} : { description: rule.description }),
    ...(rule.ports === undefined ? {} : { ports: rule.ports.map(storedPort) }),
    ...(rule.types === undefined ? {} : { types: rule.types }),
    ...extra,
    ...indexes,
    _v: 3,
  };
}

/** Triton keeps a tag as `key=value=<length of the key>`: values may hold `=`. */
export function storedTag(key: string, value: string): string {
  return `${key}=${value}=${key.length}`;
}

function storedPort(port: Port): string {
  if (port === 'all') return '[1,65535]';
  return typeof port === 'number' ? `[${port},${port}]` : `[${port.start},${port.end}]`;
}

export const parsedFields = ['parsed.action', 'parsed.ports', 'parsed.protocol', 'parsed.tags'] as const;
type ParsedField = (typeof parsedFields)[number];

/** A rule as clients see it, with the parsed fields that they ask for. */
export function presentRule(
  record: RuleRecord,
  fields: readonly ParsedField[] = [],
): RuleObject & { parsed?: Record<string, unknown> } {
  const rule = ruleOfRecord(record);
  const parts: Record<ParsedField, Record<string, unknown>> = {
    'parsed.action': { action: rule.action },
    'parsed.ports': rule.ports === undefined ? {} : { ports: rule.ports.map(presentPort) },
    'parsed.protocol': { protocol: rule.protocol },
    'parsed.tags': { fromtags: presentTags(rule.from.tags), totags: presentTags(rule.to.tags) },
  };
  const shown = Object.assign({}, ...fields.map((field) => parts[field]));
  return {
    ...rule.serialize(),
    ...(record.created_by === undefined ? {} : { created_by: record.created_by }),
    ...(Object.keys(shown).length > 0 ? { parsed: shown } : {}),
  };
}

function presentPort(port: Port): Port {
  return port === 'all' || typeof port === 'object' ? port : Number(port);
}

/** By name: whether any value will do (`all`), and the values that will. */
function presentTags(tags: RuleSide['tags']): Record<string, { all: boolean; values: string[] }> {
  const byName: Record<string, { all: boolean; values: string[] }> = {};
  for (const tag of tags) {
    const [name, value] = typeof tag === 'string' ? [tag] : tag;
    byName[name] ??= { all: false, values: [] };
    if (value === undefined) byName[name].all = true;
    else byName[name].values.push(value);
  }
  return byName;
}
