import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { FirewallRuleBody } from '../contract/desired.ts';
import { run } from '../driver/exec.ts';
import * as nft from '../driver/nft.ts';
import { NftSession } from '../driver/nft-session.ts';
import { whyNoKernel } from '../testing/nodes.ts';
import { rule } from '../testing/objects.ts';
import { compile, type FirewallInput } from './compile.ts';
import { type Ruleset, renderDelta, renderWhole } from './ruleset.ts';

const why = whyNoKernel();

/** A small generator of numbers that is the same for the same seed. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const vms = [1, 2, 3, 4].map((n) => `${String(n).repeat(8)}-0000-4000-8000-000000000000`);
const numbers = {
  vm: (uuid: string) => Number(uuid[0]),
  zone: (bridge: string) => Number(bridge.at(-1)) + 1,
};
const peers = [
  '10.0.0.1',
  '10.0.0.2',
  '10.0.0.3',
  'fd00::1',
  'fd00::2',
  '10.1.0.0/16',
  '10.1.2.0/24',
  'fd00:1::/64',
];
const payloads: Partial<FirewallRuleBody>[] = [
  {},
  { types: 'all' },
  { types: [{ type: 0 }, { type: 8 }, { type: 3, code: 4 }] },
  { protocol: 'icmp6', types: 'all' },
  { protocol: 'icmp6', types: [{ type: 128, code: 0 }, { type: 1 }] },
  { protocol: 'tcp', types: undefined, ports: 'all' },
  { protocol: 'tcp', types: undefined, ports: [{ start: 1, end: 65535 }] },
  {
    protocol: 'udp',
    types: undefined,
    ports: [
      { start: 53, end: 53 },
      { start: 60, end: 70 },
    ],
  },
  { protocol: 'ah', types: undefined },
  { protocol: 'esp', types: undefined },
];

function randomFirewall(below: (n: number) => number): Ruleset {
  const some = <T>(from: readonly T[]): T[] => from.filter(() => below(2) === 0);
  const side = () => ({ vms: some(vms), peers: below(3) === 0 ? ('any' as const) : some(peers) });
  const input: FirewallInput = {
    vms: some(vms).map((uuid) => ({ uuid, owner: 'o', macs: [`02:00:00:00:00:0${uuid[0]}`] })),
    rules: new Map(
      some([0, 1, 2, 3, 4, 5, 6, 7]).map((i) => [
        `firewall-rule/${i}/o`,
        rule({
          ...payloads[below(payloads.length)],
          rule_uuid: vms[0] ?? '',
          action: below(2) === 0 ? 'allow' : 'block',
          priority: below(3),
          log: below(4) === 0,
          in: side(),
          out: side(),
        }),
      ]),
    ),
    closed: below(4) === 0 ? [{ protocol: 'ah', inVms: null, outVms: [], owner: null }] : [],
    bridges: some(['bf1.0', 'bf1.1', 'bf1.2']),
  };
  return compile(input, numbers);
}

describe.skipIf(why !== null)(`rulesets in a kernel${why === null ? '' : ` (skipped: ${why})`}`, () => {
  const namespace = `t${randomBytes(3).toString('hex')}`;
  const file = join(tmpdir(), `${namespace}.nft`);
  const session = new NftSession(namespace, file);
  beforeAll(() => run('ip', ['netns', 'add', namespace]));
  afterAll(async () => {
    await session.close();
    await rm(file, { force: true });
    await run('ip', ['netns', 'del', namespace]);
  });

  it.each([1, 2, 3])('step by step come to the same as put in force whole (seed %i)', async (seed) => {
    const below = random(seed);
    let inForce = randomFirewall(below);
    await session.load(renderWhole(inForce));
    for (let step = 0; step < 15; step++) {
      const next = randomFirewall(below);
      const text = renderDelta(inForce, next);
      if (text !== '') await session.load(text);
      expect(await nft.differences(namespace, next)).toEqual([]);
      inForce = next;
    }
    expect(renderDelta(inForce, inForce)).toBe('');
  });

  it('leave nothing half applied when a line is refused', async () => {
    const before = randomFirewall(random(7));
    await session.load(renderWhole(before));
    const text = `${renderWhole(randomFirewall(random(8)))}add rule inet conger forward nonsense\n`;
    await expect(session.load(text)).rejects.toThrow();
    expect(await nft.differences(namespace, before)).toEqual([]);
  });

  it('show each difference from what is in force', async () => {
    const ruleset = compile(
      {
        vms: [{ uuid: vms[0] ?? '', owner: 'o', macs: ['02:00:00:00:00:01'] }],
        rules: new Map([['k', rule({ in: { vms: [vms[0] ?? ''], peers: ['10.0.0.1'] } })]]),
        closed: [],
        bridges: ['bf1.0'],
      },
      numbers,
    );
    await session.load(renderWhole(ruleset));
    expect(await nft.differences(namespace, ruleset)).toEqual([]);
    const inet = ruleset.tables[1];
    const hosts = [...(inet?.sets.keys() ?? [])].find((name) => name.startsWith('h'));
    await session.load(`add element inet conger ${hosts} { 10.0.0.9 }`);
    await session.load('flush chain inet conger forward');
    await session.load('add chain inet conger stray');
    // Tables of others are none of our business.
    await session.load('add table inet others');
    const found = (await nft.differences(namespace, ruleset)).map((line) => line.split(':')[0]);
    expect(found.sort()).toEqual([
      'firewall chain inet forward rules',
      'firewall chain inet stray',
      `firewall set inet ${hosts}`,
    ]);
  });

  it('say why a kernel would refuse them', async () => {
    const ruleset = randomFirewall(random(9));
    expect(await nft.check(ruleset)).toBeNull();
    const [bridge, inet] = ruleset.tables;
    if (bridge === undefined || inet === undefined) throw new Error('tables are missing');
    const broken = new Map([...inet.chains, ['bad', { base: null, rules: ['tcp dport 70000 accept'] }]]);
    expect(await nft.check({ tables: [bridge, { ...inet, chains: broken }] })).toMatch(/70000/);
  });
});
