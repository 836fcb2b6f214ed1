import { z } from 'zod';

/** The three kinds of key-value pairs that a VM has. */
export const metadataKinds = ['customer_metadata', 'internal_metadata', 'tags'] as const;
export type MetadataKind = (typeof metadataKinds)[number];

export type Metadata = Readonly<Record<string, string | number | boolean>>;

/** What Triton calls one pair of each kind, in its messages. */
export const metadatumNames: Readonly<Record<MetadataKind, string>> = {
  customer_metadata: 'metadatum',
  internal_metadata: 'internal metadatum',
  tags: 'tag',
};

/** Tags that Docker's tools set and rely on. */
const dockerTag = /^(?:sdc_docker$|docker:label:triton\.|docker:label:(?:com|io|org)\.docker(?:project)?\.)/;
const password = /_pw$/;

/** Whether a pair with this key may be set or removed after the VM was created. */
export function isProtected(kind: MetadataKind, key: string): boolean {
  return kind === 'tags' && dockerTag.test(key);
}

function isScalar(value: unknown): boolean {
  return ['string', 'number', 'boolean'].includes(typeof value);
}

function parseIfText(given: unknown): unknown {
  if (typeof given !== 'string') return given;
  try {
    return JSON.parse(given);
  } catch {
    return given;
  }
}

/** Pairs of one kind, as an object or as its JSON text. */
export function metadataSchema(kind: MetadataKind, options: { readonly creating: boolean }) {
  const pairs = z
    .record(z.string(), z.unknown(), { error: 'Invalid parameter' })
    .superRefine((given, context) => {
      const refuse = (key: string, message: string) =>
        context.addIssue({ code: 'custom', path: [key], message, input: given[key] });
      for (const [key, value] of Object.entries(given)) {
        if (!isScalar(value)) refuse(key, 'Forbidden Data Type');
        // Tags are indexed as text, which cannot hold it.
        else if (kind === 'tags' && `${key}${value}`.includes('\0')) refuse(key, 'NUL is not allowed');
        else if (kind === 'customer_metadata' && password.test(key)) refuse(key, 'Forbidden Metadata Key');
        else if (!options.creating && isProtected(kind, key))
          refuse(key, `Special tag "${key}" not supported`);
      }
    });
  return z.preprocess(
    parseIfText,
    pairs.transform((given) => given as Metadata),
  );
}

/** Tags as Triton's searchable string: `-key=value-key=value-`, numbers as `%n{1}`, booleans as `%b{true}`. */
export function tagString(tags: Metadata): string {
  const pairs = Object.entries(tags).map(([key, value]) => `${escapeTag(key)}=${escapeTag(tagValue(value))}`);
  return pairs.length === 0 ? '' : `-${pairs.join('-')}-`;
}

/** How a tag's value stands in the searchable string, before it is escaped. */
export function tagValue(value: string | number | boolean): string {
  if (typeof value === 'number') return `%n{${value}}`;
  if (typeof value === 'boolean') return `%b{${value}}`;
  return value;
}

export function escapeTag(text: string): string {
  return text.replace(/-/g, '%2D').replace(/=/g, '%3D');
}

/** The longest value of internal metadata that can be searched for. */
const longestSearched = 100;

/** Internal metadata as the searchable array `key=value`. */
export function searchArray(internal: Metadata): string[] {
  return Object.entries(internal)
    .filter(([, value]) => String(value).length <= longestSearched)
    .map(([key, value]) => `${key}=${value}`);
}

/** What an update does to the pairs of one kind. */
export interface MetadataChange {
  readonly set?: Metadata | undefined;
  readonly remove?: readonly string[] | undefined;
  /** Whether pairs that are not set go. */
  readonly replace: boolean;
}

export function applyMetadata(
  present: Metadata,
  { set = {}, remove = [], replace }: MetadataChange,
): Metadata {
  if (replace) return set;
  const gone = new Set(remove);
  const kept = Object.entries(present).filter(([key]) => !gone.has(key));
  return { ...Object.fromEntries(kept), ...set };
}
