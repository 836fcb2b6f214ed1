/**
 * nftables' words for a compiled firewall. A ruleset is put in force either whole (`renderWhole`) or as the difference
 * from what is in force (`renderDelta`); either text is one transaction of `nft -f -`.
 */

export interface Chain {
  /** Type, hook and priority of a base chain, as in `type filter hook forward priority 0; policy accept;`. */
  readonly base: string | null;
  readonly rules: readonly string[];
}

export interface NamedSet {
  readonly kind: 'set' | 'map';
  readonly type: string;
  /** Element to data; the data of a set's elements is ''. */
  readonly elements: ReadonlyMap<string, string>;
}

export interface Table {
  readonly family: 'bridge' | 'inet';
  readonly sets: ReadonlyMap<string, NamedSet>;
  readonly chains: ReadonlyMap<string, Chain>;
}

export interface Ruleset {
  readonly tables: readonly Table[];
}

export const tableName = 'conger';

function element(key: string, data: string): string {
  return data === '' ? key : `${key} : ${data}`;
}

function addSet(family: string, name: string, set: NamedSet): string {
  return `add ${set.kind} ${family} ${tableName} ${name} { type ${set.type}; }`;
}

function elements(verb: 'add' | 'delete', family: string, name: string, list: readonly string[]): string[] {
  return list.length === 0 ? [] : [`${verb} element ${family} ${tableName} ${name} { ${list.join(', ')} }`];
}

function addChain(family: string, name: string, chain: Chain): string {
  return `add chain ${family} ${tableName} ${name}${chain.base === null ? '' : ` { ${chain.base} }`}`;
}

function addRules(family: string, name: string, chain: Chain): string[] {
  return chain.rules.map((rule) => `add rule ${family} ${tableName} ${name} ${rule}`);
}

/** The text that puts the ruleset in force whatever was in force before. */
export function renderWhole(ruleset: Ruleset): string {
  const lines: string[] = [];
  for (const { family, sets, chains } of ruleset.tables) {
    lines.push(`add table ${family} ${tableName}`, `delete table ${family} ${tableName}`);
    lines.push(`add table ${family} ${tableName}`);
    for (const [name, chain] of chains) lines.push(addChain(family, name, chain));
    for (const [name, set] of sets) {
      lines.push(addSet(family, name, set));
      lines.push(
        ...elements(
          'add',
          family,
          name,
          [...set.elements].map(([k, d]) => element(k, d)),
        ),
      );
    }
    for (const [name, chain] of chains) lines.push(...addRules(family, name, chain));
  }
  return lines.length === 0 ? '' : `${lines.join('\n')}\n`;
}

const sameRules = (a: Chain, b: Chain) =>
  a.rules.length === b.rules.length && a.rules.every((rule, i) => rule === b.rules[i]);

/**
 * The text that turns `from`, which is in force, into `to`; '' where they are equal. New chains and sets come before
 * the rules that use them, and what is no longer used goes last. Both must have the same tables and base chains.
 */
export function renderDelta(from: Ruleset, to: Ruleset): string {
  const lines: string[] = [];
  for (const next of to.tables) {
    const { family } = next;
    const last = from.tables.find((table) => table.family === family);
    if (last === undefined) throw new Error(`no table ${family} to start from`);
    const fill: string[] = [];
    const tidy: string[] = [];
    for (const [name, chain] of next.chains) {
      const before = last.chains.get(name);
      if (before === undefined) lines.push(addChain(family, name, chain));
      else if (sameRules(before, chain)) continue;
      else fill.push(`flush chain ${family} ${tableName} ${name}`);
      fill.push(...addRules(family, name, chain));
    }
    for (const [name, set] of next.sets) {
      const before = last.sets.get(name)?.elements ?? new Map<string, string>();
      if (!last.sets.has(name)) lines.push(addSet(family, name, set));
      const gone = [...before].filter(([key, data]) => set.elements.get(key) !== data).map(([key]) => key);
      const come = [...set.elements].filter(([key, data]) => before.get(key) !== data);
      lines.push(...elements('delete', family, name, gone));
      lines.push(
        ...elements(
          'add',
          family,
          name,
          come.map(([k, d]) => element(k, d)),
        ),
      );
    }
    const deadChains = [...last.chains.keys()].filter((name) => !next.chains.has(name));
    tidy.push(...deadChains.map((name) => `flush chain ${family} ${tableName} ${name}`));
    for (const [name, set] of last.sets) {
      if (!next.sets.has(name)) tidy.push(`delete ${set.kind} ${family} ${tableName} ${name}`);
    }
    tidy.push(...deadChains.map((name) => `delete chain ${family} ${tableName} ${name}`));
    lines.push(...fill, ...tidy);
  }
  return lines.length === 0 ? '' : `${lines.join('\n')}\n`;
}
