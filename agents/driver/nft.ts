import { z } from 'zod';
import { type Ruleset, renderWhole, tableName } from '../firewall/ruleset.ts';
import { run } from './exec.ts';

const listingSchema = z.object({ nftables: z.array(z.record(z.string(), z.unknown())) });
const partSchema = z.looseObject({
  family: z.string(),
  name: z.string().optional(),
  table: z.string().optional(),
});

/** What a listing holds of our tables: each part's name to its content. Handles, which differ by history, are left out. */
type Listing = Map<string, string>;

/** The order of a set's elements means nothing. */
function normal(value: unknown, unordered = false): unknown {
  if (Array.isArray(value)) {
    const items = value.map((item) => normal(item));
    return unordered ? items.sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1)) : items;
  }
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([field]) => field !== 'handle')
      .map(([field, item]) => [field, normal(item, field === 'elem' || field === 'set')]),
  );
}

function parseListing(text: string): Listing {
  const listing: Listing = new Map();
  for (const entry of listingSchema.parse(JSON.parse(text)).nftables) {
    for (const [kind, content] of Object.entries(entry)) {
      if (kind === 'metainfo') continue;
      const part = partSchema.parse(content);
      if ((kind === 'table' ? part.name : part.table) !== tableName) continue;
      const name =
        kind === 'rule'
          ? `chain ${part.family} ${String(part.chain)} rules`
          : `${kind} ${part.family} ${part.name}`;
      const line = JSON.stringify(normal(content));
      listing.set(name, kind === 'rule' ? `${listing.get(name) ?? ''}${line}\n` : line);
    }
  }
  return listing;
}

const inNamespace = (namespace: string, ...command: string[]) => [
  `--net=/run/netns/${namespace}`,
  ...command,
];

/** Why a kernel would refuse the ruleset, or null: tried in a namespace that is gone at once. */
export async function check(ruleset: Ruleset): Promise<string | null> {
  try {
    await run('unshare', ['--net', 'nft', '-f', '-'], renderWhole(ruleset));
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/**
 * What distinguishes the tables in force from `expected`. nft writes rules back in words of its own, which differ by
 * version; so the expected ruleset is put into an empty namespace, and the two are compared as nft lists them.
 */
export async function differences(namespace: string, expected: Ruleset): Promise<string[]> {
  const [actualText, expectedText] = await Promise.all([
    run('nsenter', inNamespace(namespace, 'nft', '-j', 'list', 'ruleset')),
    run('unshare', ['--net', 'sh', '-c', 'nft -f - && nft -j list ruleset'], renderWhole(expected)),
  ]);
  const actual = parseListing(actualText);
  const wanted = parseListing(expectedText);
  const found: string[] = [];
  for (const [name, content] of wanted) {
    const now = actual.get(name);
    if (now === undefined) found.push(`firewall ${name}: is missing`);
    else if (now !== content) found.push(`firewall ${name}: should be ${content.trim()}, is ${now.trim()}`);
  }
  for (const name of actual.keys()) {
    if (!wanted.has(name)) found.push(`firewall ${name}: should not be there`);
  }
  return found;
}
